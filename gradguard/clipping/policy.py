"""Clipping policies: frozen values that shrink gradients in place and say by how much."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from gradguard.gradients.norms import Gradients, total_norm

State = dict[str, Any]
"""What policies have learned: nested dicts of tensors and numbers."""


class Policy(Protocol):
    """What every clipping policy does.

    A policy holds settings only, so one may serve several optimizers. What it learns it
    keeps in `state`, which is saved with checkpoints.
    """

    def clip(self, gradients: Gradients, norms: Tensor, state: State) -> Tensor:
        """Clip the gradients in place and return their norms after.

        Args:
            gradients: `n` gradients.
            norms: Their L2 norms as they are now, `[n]`.
            state: What the policy kept here at the last step, empty at the first. What
                it keeps as "threshold", a number or a 0-d tensor, is logged.

        Returns:
            Their L2 norms once clipped, `[n]`.
        """
        ...


# Divided by 1e-6, a larger threshold overflows float32, of which NumPy warns.
_LARGEST_ON_HOST = 1e30


@dataclass(frozen=True)
class ClipNorm:
    """g <- g * min(1, max_norm / (||g|| + 1e-6)), the norm taken over all gradients.

    The arithmetic of `torch.nn.utils.clip_grad_norm_`, to the bit. Clipping only ever
    shrinks: a gradient below the threshold is untouched.

    Args:
        max_norm: Largest L2 norm let through; positive, finite.
        per_parameter: Take the norm of each parameter's gradient by itself, as Keras 3
            (`clipnorm`) and Paddle (`ClipGradByNorm`) do; torch clips globally.

    Raises:
        ValueError: If `max_norm` is not a positive finite number.

    References:
        Pascanu, Mikolov, Bengio. On the difficulty of training recurrent neural
        networks. https://arxiv.org/abs/1211.5063, 2013.

    Example:
        >>> parameter = torch.nn.Parameter(torch.zeros(2))
        >>> parameter.grad = torch.tensor([3.0, 4.0])
        >>> before, after = apply([ClipNorm(1.0)], Gradients([parameter.grad]), {})
        >>> float(before[0]), round(float(after[0]), 4)
        (5.0, 1.0)
    """

    max_norm: float
    per_parameter: bool = False

    def __post_init__(self) -> None:
        require_positive("max_norm", self.max_norm)

    def clip(self, gradients: Gradients, norms: Tensor, state: State) -> Tensor:
        """Scale the gradients down to `max_norm`; see `Policy.clip`."""
        state["threshold"] = self.max_norm
        size = norms if self.per_parameter else total_norm(norms)
        if size.ndim or not size.is_cpu or self.max_norm > _LARGEST_ON_HOST:
            # 1e-6 and the order of the operations are torch's: results are bit-identical.
            inverse = (size + 1e-6).reciprocal_()
            return scale(gradients, norms, inverse.mul_(self.max_norm).clamp_(max=1.0))
        host = size.numpy()  # the same, without a kernel for each operation
        exact = host.dtype.type
        coefficient = exact(1) / (host[()] + exact(1e-6)) * exact(self.max_norm)
        if coefficient >= 1:
            return norms
        host[()] = coefficient
        return _multiplied(gradients, norms, size)


@dataclass(frozen=True)
class ClipValue:
    """g <- min(max(g, -clip_value), clip_value), element by element.

    The arithmetic of `torch.nn.utils.clip_grad_value_`, to the bit. It changes the
    direction of the gradient; it turns +-Inf into +-clip_value and keeps NaN. Real and
    imaginary parts of a complex gradient are clipped each by itself. Elements know no
    parameters, so there is nothing to choose between global and per parameter.

    Args:
        clip_value: Largest absolute value let through; positive, finite.

    Raises:
        ValueError: If `clip_value` is not a positive finite number.

    References:
        Graves. Generating sequences with recurrent neural networks.
        https://arxiv.org/abs/1308.0850, 2013.
    """

    clip_value: float

    def __post_init__(self) -> None:
        require_positive("clip_value", self.clip_value)

    def clip(self, gradients: Gradients, norms: Tensor, state: State) -> Tensor:
        """Clamp the elements to +-`clip_value`; see `Policy.clip`."""
        state["threshold"] = self.clip_value
        if not gradients.on_host:
            self._clamp(gradients)
            return gradients.norms()
        # No element exceeds the norm of its tensor, so a smaller norm needs no pass;
        # the margin is the rounding of a float32 norm.
        untouched = norms.numpy() < self.clip_value * (1 - 1e-4)
        positions = np.flatnonzero(~untouched)
        if not positions.size:
            return norms
        large = Gradients([gradients.tensors[position] for position in positions])
        self._clamp(large)
        return norms.index_copy(0, torch.from_numpy(positions), large.norms().to(norms))

    def _clamp(self, gradients: Gradients) -> None:
        for positions in gradients.groups.values():
            tensors = gradients.at(positions)
            torch._foreach_clamp_min_(tensors, -self.clip_value)
            torch._foreach_clamp_max_(tensors, self.clip_value)


Clip = Policy | Iterable[Policy] | None
"""What callers may ask for: no policy, one, or several applied in the order given."""


def in_order(clip: Clip) -> tuple[Policy, ...]:
    """Return the policies as a sequence.

    Raises:
        TypeError: If something in it is not a policy.
    """
    if clip is None:
        return ()
    policies = tuple(clip) if isinstance(clip, Iterable) else (clip,)
    for policy in policies:
        if not callable(getattr(policy, "clip", None)):
            raise TypeError(
                f"clip must be a policy such as ClipNorm(5.0), or a sequence of them, "
                f"got {policy!r}"
            )
    return policies


def in_words(policies: Sequence[Policy]) -> str:
    """Return the policies as one would write them in code, "" for none."""
    return ", ".join(map(repr, policies))


@torch.no_grad()
def apply(
    policies: Sequence[Policy], gradients: Gradients, state: State
) -> tuple[Tensor, Tensor]:
    """Apply the policies in order, in place; return the norms before and after.

    Args:
        policies: The first sees the gradients as they came, the next what it left.
        gradients: `n` gradients; sparse ones coalesced.
        state: What the policies have learned so far; changed in place.

    Returns:
        L2 norm of every gradient before the first policy and after the last, `[n]` each.
    """
    before = gradients.norms()
    return before, apply_to(before, policies, gradients, state)


def apply_to(
    norms: Tensor, policies: Sequence[Policy], gradients: Gradients, state: State
) -> Tensor:
    """Do as `apply` where the norms before are known, `[n]`; return those after."""
    for place, policy in enumerate(policies):
        own = state.setdefault(f"{place}.{type(policy).__name__}", {})
        norms = policy.clip(gradients, norms, own)
    return norms


def scale(gradients: Gradients, norms: Tensor, coefficient: Tensor) -> Tensor:
    """Multiply gradients in place by one coefficient or one each; return their norms.

    Args:
        gradients: `n` gradients.
        norms: Their L2 norms, `[n]`.
        coefficient: 0-d or `[n]`, 0 to 1.
    """
    if coefficient.is_cpu and _all_one(coefficient):
        return norms
    return _multiplied(gradients, norms, coefficient)


def _multiplied(gradients: Gradients, norms: Tensor, coefficient: Tensor) -> Tensor:
    for (_, device), positions in gradients.groups.items():
        here = coefficient.to(device)
        if here.ndim:
            units = here.unbind()
            each = [units[position] for position in positions]
            torch._foreach_mul_(gradients.at(positions), each)
        else:
            torch._foreach_mul_(gradients.at(positions), here)
    if gradients.any_half:
        return gradients.norms()  # every product was rounded to half precision
    return norms * coefficient


def _all_one(coefficient: Tensor) -> bool:
    host = coefficient.numpy()
    # A reduction costs ten times as much as a look at the one number there mostly is.
    return bool((host == 1.0).all()) if host.ndim else float(host) == 1.0


def require_positive(field: str, value: float) -> None:
    """Do nothing if the value is a positive finite number.

    Raises:
        ValueError: If it is not.
    """
    if not 0 < value < math.inf:
        raise ValueError(f"{field} must be a positive number, got {value!r}")
