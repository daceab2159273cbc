"""Clip and measure in any training loop: the core that GradGuard is a shell around."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import Self

from gradguard.clipping.policy import (
    Clip,
    State,
    apply_to,
    check,
    in_order,
    thresholds,
)
from gradguard.gradients.columns import ParameterColumns
from gradguard.gradients.norms import Gradients, total_norm
from gradguard.gradients.sharding import Shards
from gradguard.records.records import MISSING


class ClippedNorms(NamedTuple):
    """What one clip did to `P` parameters' gradients, on their device.

    Attributes:
        before: L2 norm of each gradient before clipping, in the order the parameters
            were given, `[P]`; -1 where there is none.
        after: The same after clipping, `[P]`.
    """

    before: Tensor
    after: Tensor

    @property
    def total_before(self) -> Tensor:
        """L2 norm over all parameters before clipping, 0-d."""
        return total_norm(self.before * (self.before != MISSING))

    @property
    def total_after(self) -> Tensor:
        """L2 norm over all parameters after clipping, 0-d."""
        return total_norm(self.after * (self.after != MISSING))

    @property
    def coefficient(self) -> Tensor:
        """total_after / total_before, 0-d: 1 where nothing clipped."""
        zero = self.total_before == 0
        return torch.where(zero, 1.0, self.total_after / self.total_before)


class Clipper:
    """Clip the gradients of some parameters by a policy, between backward and step.

    Never syncs with an accelerator. Shards (FSDP2, tensor parallel) are measured whole,
    with one collective per mesh dimension: call it on every rank.

    Args:
        parameters: What the optimizer updates, as `model.parameters()`, or with names
            as `model.named_parameters()`, which `ByName` needs.
        policy: A policy such as `ClipNorm(5.0)`, or several applied in the order given;
            None measures only.
        module: The model, where FSDP1 wraps it.

    Raises:
        TypeError: If `policy` holds something that is not a policy.
        ValueError: If a pattern in it matches no parameter.

    Examples:
        >>> from gradguard import Clipper, ZClip
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> clipper = Clipper(model.named_parameters(), ZClip())
        >>> for batch in torch.ones(3, 4, 2):
        ...     optimizer.zero_grad()
        ...     model(batch).square().mean().backward()
        ...     record = clipper.clip()
        ...     optimizer.step()
        >>> record.before.shape, float(record.coefficient)
        (torch.Size([2]), 1.0)
    """

    def __init__(
        self,
        parameters: Iterable[Tensor] | Iterable[tuple[str, Tensor]],
        policy: Clip,
        *,
        module: nn.Module | None = None,
    ) -> None:
        names = dict(_named(parameters))
        held = list(names)
        columns = ParameterColumns(held, names, Shards(held, module))
        self._open(columns, policy)
        check(self.policies, columns.names)

    @classmethod
    def over(cls, columns: ParameterColumns, policy: Clip) -> Self:
        """Return the clipper of parameters that are columns already, unchecked."""
        clipper = cls.__new__(cls)
        clipper._open(columns, policy)
        return clipper

    @torch.no_grad()
    def clip(self) -> ClippedNorms:
        """Clip the gradients there are now, in place, and learn from their norms."""
        gradients = self.columns.gradients(to_clip=bool(self.policies))
        if not gradients:
            absent = torch.full((len(self.columns.parameters),), MISSING)
            return ClippedNorms(absent, absent)
        norms = gradients.norms()
        return ClippedNorms(self.columns.row(norms), self.clip_these(gradients, norms))

    def clip_these(self, gradients: Gradients, norms: Tensor) -> Tensor:
        """Clip gradients whose norms are known, `[n]`; return those after, `[P]`."""
        after = apply_to(norms, self.policies, gradients, self._state)
        return self.columns.row(after)

    def thresholds(self) -> dict[str, float | Tensor]:
        """Return each policy's threshold in force, as "0.ZClip"; "" if there is only one.

        Learned ones are 0-d tensors on the device.
        """
        return dict(thresholds(self.policies, self._state))

    def state_dict(self) -> State:
        """Return what the policies have learned, in a form to save."""
        return _mapped(self._state, lambda tensor: tensor.clone())

    def load_state_dict(self, state: State) -> None:
        """Take up what the policies of another run had learned."""
        device = self.columns.parameters[0].device
        self._state |= _mapped(state, lambda tensor: tensor.to(device, copy=True))

    def _open(self, columns: ParameterColumns, policy: Clip) -> None:
        self.columns = columns
        self.policies = in_order(policy)
        self._state: State = {}


def _named(
    parameters: Iterable[Tensor] | Iterable[tuple[str, Tensor]],
) -> Iterator[tuple[Tensor, str]]:
    items: Iterable[Tensor | tuple[str, Tensor]] = parameters
    for position, item in enumerate(items):
        if isinstance(item, Tensor):
            yield item, f"unnamed.{position}"
        else:
            yield item[1], item[0]


def _mapped(state: State, change: Any) -> State:
    """Return a copy of nested dicts whose tensors are changed."""
    return {
        key: _mapped(value, change)
        if isinstance(value, dict)
        else change(value)
        if isinstance(value, Tensor)
        else value
        for key, value in state.items()
    }
