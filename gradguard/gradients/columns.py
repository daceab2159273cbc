"""Parameters as the columns of records."""

from collections.abc import Mapping, Sequence
from operator import is_

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradguard.gradients.norms import Gradients
from gradguard.gradients.sharding import Shards, local
from gradguard.records.records import MISSING


class ParameterColumns:
    """Gather gradients from parameters, and spread their norms over them.

    Args:
        parameters: In the optimizer's order, so that a total sums up as in Lightning's
            own clip, `P`.
        names: All parameters of the model to their names, in model order.
        shards: How the parameters are spread over processes.

    Attributes:
        parameters: As given.
        order: Positions of `parameters` in model order.
        names: Names in model order.
        distinct: Whether no parameter is there twice.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        names: Mapping[Tensor, str],
        shards: Shards,
    ) -> None:
        self._names = names
        self._shards = shards
        self.parameters = parameters
        self.distinct = len(set(parameters)) == len(parameters)
        places = {parameter: place for place, parameter in enumerate(names)}
        last = len(places)
        self.order = sorted(
            range(len(self.parameters)),
            key=lambda column: places.get(self.parameters[column], last),
        )
        self.names = tuple(
            names.get(self.parameters[column], f"unnamed.{column}")
            for column in self.order
        )
        self._places: list[int] | None = None
        self._index = torch.empty(0)
        self._missing = torch.empty(0)

    def are_those_of(self, optimizer: Optimizer) -> bool:
        """Whether these are the parameters the optimizer holds now."""
        held = parameters_of(optimizer)
        return len(held) == len(self.parameters) and all(
            map(is_, held, self.parameters)
        )

    def gradients(self, *, to_clip: bool = False) -> Gradients:
        """Return the gradients there are now; of sharded ones, what this rank holds.

        Args:
            to_clip: Sum up the duplicates of sparse gradients in place, since only the
                numbers of a coalesced gradient can be clipped.
        """
        if self._shards:
            return Gradients(
                map(_held, self.parameters),
                parameters=self.parameters,
                names=self._names,
                whole=self._whole,
            )
        owners: Sequence[Tensor] = self.parameters
        found = self.found()
        if len(found) < len(owners):
            owners = [parameter for parameter in owners if parameter.grad is not None]
        gradients = Gradients(found, parameters=owners, names=self._names)
        if gradients.are_plain or not (to_clip and gradients.any_sparse):
            return gradients
        found = [_coalesced(parameter) for parameter in owners]
        return Gradients(found, parameters=owners, names=self._names)

    def found(self) -> list[Tensor]:
        """Return the gradients of the parameters that have one, as they hang there."""
        return [g for parameter in self.parameters if (g := parameter.grad) is not None]

    def row(self, norms: Tensor) -> Tensor:
        """Give parameters without a gradient their place: `[n]` to `[P]`."""
        if self._shards:
            return torch.where(self._missing, MISSING, norms)
        if norms.shape[0] == len(self.parameters):
            return norms
        row = norms.new_full((len(self.parameters),), MISSING)
        return row.index_copy_(0, self._places_with(norms.device, present=True), norms)

    def _whole(self, norms: Tensor) -> Tensor:
        """Return norms of whole gradients for all columns, 0 where there is none."""
        absent = self._places_with(norms.device, present=False)
        whole = self._shards.reduce(norms.index_fill(0, absent, MISSING))
        self._missing = whole < 0
        return whole.clamp(min=0)

    def _places_with(self, device: torch.device, *, present: bool) -> Tensor:
        """Columns of parameters with a gradient (`present=True`) or without."""
        places = [
            place
            for place, parameter in enumerate(self.parameters)
            if (parameter.grad is not None) is present
        ]
        if places != self._places:
            # Kept until it changes: making an index on an accelerator syncs.
            self._places = places
            self._index = torch.tensor(places, dtype=torch.long, device=device)
        return self._index


def _held(parameter: Tensor) -> Tensor:
    """Return this rank's part of a gradient, empty if it has none."""
    if parameter.grad is None:
        return torch.empty(0, dtype=parameter.dtype, device=parameter.device)
    return local(parameter.grad)


def _coalesced(parameter: Tensor) -> Tensor:
    """Sum up the duplicates of a sparse gradient in place; return the gradient."""
    gradient = parameter.grad
    assert gradient is not None  # of the owner of one
    if gradient.layout is torch.sparse_coo:
        gradient = parameter.grad = gradient.coalesce()
    return gradient


def parameters_of(optimizer: Optimizer) -> list[Tensor]:
    """Return the parameters of every group, in the optimizer's order."""
    return [p for group in optimizer.param_groups for p in group["params"]]
