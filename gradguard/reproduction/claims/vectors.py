"""What needs no training: clipped vectors, chains, a logistic map, targets."""

import numpy as np
import torch
from torch.nn.utils import clip_grad_norm_

from gradguard.clipping.clipper import ClippedNorms, Clipper
from gradguard.clipping.fixed import ClipNorm
from gradguard.reproduction.claims.documents import CSDN_GRADIENT, CSDN_PRINTED
from gradguard.reproduction.claims.logistic import logistic_map
from gradguard.reproduction.targets import targets

MAX_NORM = 3.0
LENGTH = 50
ITERATIONS = (1, 2, 3, 6)
_FLAT = 0.1


def torch_clip() -> dict[str, float]:
    """Clip the document's gradient by its norm, as torch does."""
    (parameter,) = _parameters(CSDN_GRADIENT)
    returned = clip_grad_norm_([parameter], MAX_NORM)
    return _clipped(parameter, returned=float(returned))


def own_clip() -> dict[str, float]:
    """Clip it as gradguard does, which has the norm before and the norm after."""
    (parameter,) = _parameters(CSDN_GRADIENT)
    record = Clipper([parameter], ClipNorm(MAX_NORM)).clip()
    return _clipped(parameter, returned=float(record.total_before))


def printed_clip() -> dict[str, float]:
    """Return what the document prints as the result, and its norm."""
    norm = float(np.linalg.norm(CSDN_PRINTED))
    return {"first": CSDN_PRINTED[0], "norm": norm, "returned": 10**0.5}


def formula_clip() -> dict[str, float]:
    """Evaluate the document's formula, clip(g, -C, C) / ||clip(g, -C, C) / eps||."""
    epsilon = 1e-6
    clamped = np.clip(CSDN_GRADIENT, -MAX_NORM, MAX_NORM)
    result = clamped / np.linalg.norm(clamped / epsilon)
    norm = float(np.linalg.norm(result))
    return {"first": float(result[0]), "norm": norm, "returned": float("nan")}


def thirteen_together() -> dict[str, float]:
    """Clip (3, 4) and (12) to norm 1: together they have norm 13."""
    return _thirteen(ClipNorm(1.0))


def thirteen_apart() -> dict[str, float]:
    """Clip each of them to norm 1 by itself: together they keep the square root of 2."""
    return _thirteen(ClipNorm(1.0, per_parameter=True))


def small() -> dict[str, float]:
    """Clip a gradient that is smaller than the threshold: nothing is enlarged."""
    (parameter,) = _parameters((0.3, 0.4))
    record = Clipper([parameter], ClipNorm(1.0)).clip()
    return _totals(record)


def chain(weight: float) -> dict[str, float]:
    """Differentiate y = w_50 ... w_2 w_1 x, all w alike, at x = 1."""
    weights = torch.full((LENGTH,), weight, dtype=torch.float64, requires_grad=True)
    y = weights.prod()
    (slopes,) = torch.autograd.grad(y, weights)
    return {"output": y.item(), "value": slopes[0].item()}


def chain_of_08() -> dict[str, float]:
    """Differentiate a chain of 50 weights of 0.8."""
    return chain(0.8)


def chain_of_12() -> dict[str, float]:
    """Differentiate a chain of 50 weights of 1.2."""
    return chain(1.2)


def logistic() -> dict[str, float]:
    """Return the largest |dy/dx| on [0, 1] of f(x) = 3.5 x (1 - x), iterated."""
    x = np.linspace(0, 1, 200_001)
    slopes = {n: np.abs(logistic_map(x, iterations=n)[1]) for n in ITERATIONS}
    flat = float((slopes[6] < _FLAT).mean())
    return {f"slope_{n}": float(slopes[n].max()) for n in ITERATIONS} | {"flat": flat}


def target() -> dict[str, float]:
    """Return the range, the mean and the deviation of the regression targets."""
    y = targets()
    summary = {"least": y.min(), "largest": y.max(), "mean": y.mean(), "sd": y.std()}
    return {name: float(value) for name, value in summary.items()}


def _thirteen(policy: ClipNorm) -> dict[str, float]:
    return _totals(Clipper(_parameters((3.0, 4.0), (12.0,)), policy).clip())


def _totals(record: ClippedNorms) -> dict[str, float]:
    before, after = float(record.total_before), float(record.total_after)
    return {"returned": before, "norm": after, "coefficient": after / before}


def _parameters(*gradients: tuple[float, ...]) -> list[torch.Tensor]:
    """Return parameters that have these gradients."""
    parameters = [torch.zeros(len(gradient)) for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_().grad = torch.tensor(gradient)
    return parameters


def _clipped(parameter: torch.Tensor, *, returned: float) -> dict[str, float]:
    gradient = parameter.grad
    assert gradient is not None  # _parameters gave it one
    first, norm = float(gradient[0]), float(gradient.norm())
    return {"first": first, "norm": norm, "returned": returned}
