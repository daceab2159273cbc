"""What a clipping policy is, and how several are applied in order."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from gradguard.gradients.norms import Gradients

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
    return multiplied(gradients, norms, coefficient)


def multiplied(gradients: Gradients, norms: Tensor, coefficient: Tensor) -> Tensor:
    """Do as `scale` where some coefficient is known to be below 1."""
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
