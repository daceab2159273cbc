"""Which gradients are not finite, in what way, and what to try: one sentence each."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gradguard.gradients.norms import plain
from gradguard.gradients.sharding import local
from gradguard.names import named

# A spike is carried by a few: so many are named, and no more than hold this share.
_MOST_CARRIERS = 3
_MOST = 0.9


class Counts(NamedTuple):
    """How many elements of one gradient are of which kind."""

    nan: int
    plus_inf: int
    minus_inf: int
    finite: int

    def __str__(self) -> str:
        kinds = {
            "NaN": self.nan,
            "+Inf": self.plus_inf,
            "-Inf": self.minus_inf,
        }
        found = " and ".join(kind for kind, count in kinds.items() if count)
        # Its own elements are finite, so it is their norm that is not: too large for
        # float32, or not finite before somebody clipped, or on another process.
        return found or "norm overflow"


def counts(gradient: Tensor | None) -> Counts:
    """Count the elements of a gradient by kind; syncs."""
    if gradient is None:
        return Counts(0, 0, 0, 0)
    elements = plain(local(gradient))
    nan, plus, minus = (
        int(kind.sum())
        for kind in (elements.isnan(), elements.isposinf(), elements.isneginf())
    )
    return Counts(nan, plus, minus, elements.numel() - nan - plus - minus)


def norm(gradient: Tensor | None) -> float:
    """Return the L2 norm of a gradient in float64, -1 where there is none; syncs."""
    if gradient is None:
        return -1.0
    elements = plain(local(gradient)).cpu()  # where float64 is at hand
    return float(torch.linalg.vector_norm(elements, dtype=torch.float64))


def culprits(
    names: Sequence[str], parameters: Sequence[Tensor], norms: Sequence[float]
) -> str:
    """Name the first bad parameters in backward order, and those that are finite.

    Args:
        names: Names in model order, `P`; the backward pass meets the last one first.
        parameters: What they name.
        norms: Norms of their gradients, negative where there is none.
    """
    backward = list(zip(names, parameters, norms, strict=True))[::-1]
    bad = [
        f"{name} ({counts(parameter.grad)})"
        for name, parameter, norm in backward
        if not math.isfinite(norm)
    ]
    fine = [name for name, _, norm in backward if 0 <= norm < math.inf]
    if not bad:
        return "gradients are not finite on another process"
    return (
        f"gradients are not finite: {named(bad)}, first in backward order; "
        f"finite: {named(fine) if fine else 'none'}"
    )


def carriers(names: Sequence[str], norms: Sequence[float]) -> str:
    """Name the parameters that hold most of a total, with their share of its square.

    Args:
        names: Names, `P`.
        norms: Norms of what they name, negative where there is none.
    """
    squares = [max(norm, 0.0) ** 2 for norm in norms]
    whole = math.fsum(squares)
    order = sorted(range(len(names)), key=squares.__getitem__, reverse=True)
    said, held = [], 0.0
    for place in order[:_MOST_CARRIERS]:
        if held >= _MOST * whole:
            break
        held += squares[place]
        said.append(f"{names[place]} ({squares[place] / whole:.0%})")
    return (
        f"its square lies in {' and '.join(said)}" if whole else "no gradient holds it"
    )


def advice(loss: float | None, said: str) -> str:
    """Return what to try, given the loss, None if unknown, and what `culprits` said."""
    if loss is not None and not math.isfinite(loss):
        return (
            f"loss {loss}: the forward pass broke; if norms grew over the steps before, "
            "clip or lower the learning rate, else look at this batch, and for "
            "logarithms, divisions and exponentials"
        )
    if "overflow" in said:
        return (
            "the elements are finite and only a norm is too large for float32, so lower "
            "the learning rate, or clip by value first"
        )
    known = "loss unknown" if loss is None else f"loss {loss:g}"
    return (
        f"{known}: Trainer(detect_anomaly=True) names the operation; look for roots and "
        "norms at zero, and for what torch.where hides"
    )
