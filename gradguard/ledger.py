"""One optimizer's gradients: measured at both moments, kept, and handed out as records."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from gradguard.buffer import Buffer
from gradguard.clipping import Policy, clip
from gradguard.norms import Gradients
from gradguard.record import MISSING, Records

# A total this many times the recent median is written at once: should the process die,
# it is the step one wants to see.
_FAR_ABOVE_MEDIAN = 50.0


class Ledger:
    """Measure, clip and keep the gradients of one optimizer.

    Args:
        optimizer: Whose parameters.
        names: Parameters to their names, in model order.
        policies: What clips, in order; empty leaves the gradients alone.
        steps_per_write: Steps to keep before `due`.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        names: Mapping[Tensor, str],
        policies: Sequence[Policy],
        steps_per_write: int,
    ) -> None:
        # The optimizer's order, so that the total sums up as Lightning's own clip does;
        # `drain` sorts the columns into model order.
        self._optimizer = optimizer
        self.parameters = _parameters(optimizer)
        self._policies = policies
        position = {parameter: place for place, parameter in enumerate(names)}
        last = len(position)
        self._order = sorted(
            range(len(self.parameters)),
            key=lambda column: position.get(self.parameters[column], last),
        )
        self.names = tuple(
            names.get(self.parameters[column], f"unnamed.{column}")
            for column in self._order
        )
        device = self.parameters[0].device
        self._buffer = Buffer(len(self.parameters), steps_per_write, device)
        self._present: list[bool] = []
        self._places = torch.empty(0)
        self._before: Tensor | None = None
        self._last_step = -1
        self._lacks_loss = False
        self._median = np.inf
        self._alarmed = False

    @property
    def outgrown(self) -> bool:
        """Whether the optimizer has been given more parameters since."""
        groups = self._optimizer.param_groups
        return sum(len(group["params"]) for group in groups) != len(self.parameters)

    def see_before(self, scale: Tensor | None) -> None:
        """Remember the norms now as those before clipping, divided by the loss scale."""
        if not self._policies:
            norms = self._spread(Gradients(self._gradients()).norms())
            self._before = norms if scale is None else _unscaled(norms, scale)

    def see_update(self, step: int) -> None:
        """Clip if asked to, and keep what was before and what is now.

        Args:
            step: Steps completed so far. Where it did not move since the last update
                (several updates a batch, a step behind Lightning's back), the next
                free number is taken.
        """
        gradients = self._gradients()
        pending, self._before = self._before, None
        if not gradients:
            return
        if self._policies:
            before, after = map(self._spread, clip(self._policies, gradients))
        else:
            after = self._spread(Gradients(gradients).norms())
            before = after if pending is None else pending
        self._last_step = max(step, self._last_step + 1)
        self._buffer.put(self._last_step, before, after)
        self._lacks_loss = True

    def see_batch_end(self, loss: Tensor | None) -> bool:
        """Add the loss to the step just kept; return whether it is time to drain."""
        self._before = None  # of a step the gradient scaler has skipped
        updated, self._lacks_loss = self._lacks_loss, False
        if not updated:
            return False
        if loss is not None:
            self._buffer.put_loss(loss)
        return self._buffer.full or self._rings_alarm()

    def drain(self) -> Records | None:
        """Take out every step kept so far, in one copy; None if there is none."""
        if not self._buffer.steps:
            return None
        records = self._buffer.drain(self.names, self._order)
        healthy = records.total_before[np.isfinite(records.total_before)]
        self._median = float(np.median(healthy)) if len(healthy) else np.inf
        return records

    def _gradients(self) -> list[Tensor]:
        gradients = []
        for parameter in self.parameters:
            gradient = parameter.grad
            if gradient is None:
                continue
            if self._policies and gradient.layout is torch.sparse_coo:
                # Only the numbers of a coalesced gradient can be clipped in place.
                gradient = parameter.grad = gradient.coalesce()
            gradients.append(gradient)
        return gradients

    def _spread(self, norms: Tensor) -> Tensor:
        """Give parameters without a gradient their place: `[n]` to `[P]`."""
        if len(norms) == len(self.parameters):
            return norms
        present = [parameter.grad is not None for parameter in self.parameters]
        if present != self._present:
            # Kept until it changes: making an index on an accelerator syncs.
            self._present = present
            self._places = torch.tensor(np.flatnonzero(present), device=norms.device)
        row = norms.new_full((len(present),), MISSING)
        return row.index_copy_(0, self._places, norms)

    def _rings_alarm(self) -> bool:
        """Whether the step just kept is the first of an excess; False where it syncs."""
        before = self._buffer.last_before
        if before.device.type != "cpu":
            return False
        norms = before.numpy()
        total = np.linalg.norm(norms[~(norms < 0)])  # NaN is not below zero
        alarmed = not total < _FAR_ABOVE_MEDIAN * self._median
        rings = alarmed and not self._alarmed
        self._alarmed = alarmed
        return rings


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _unscaled(norms: Tensor, scale: Tensor) -> Tensor:
    return torch.where(norms < 0, norms, norms / scale.to(norms.device))
