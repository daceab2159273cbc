"""What the claims that need no training compute: clipped vectors, a chain, a map, targets.

torch waits until one of them is called: a list of the experiments does without.
"""

import numpy as np
from numpy.typing import NDArray

from gradguard.reproduction.claims.documents import CSDN_GRADIENT, CSDN_PRINTED

Floats = NDArray[np.float64]

MAX_NORM = 3.0
_LENGTH = 50
_ITERATIONS = (1, 2, 3, 6)
_FLAT = 0.1


def clipped_by_torch() -> dict[str, float]:
    """Clip the document's gradient by its norm, as torch does."""
    import torch
    from torch.nn.utils import clip_grad_norm_

    parameter = torch.zeros(len(CSDN_GRADIENT), requires_grad=True)
    gradient = parameter.grad = torch.tensor(CSDN_GRADIENT)
    returned = clip_grad_norm_([parameter], MAX_NORM)
    return {
        "first": float(gradient[0]),
        "norm": float(gradient.norm()),
        "returned": float(returned),
    }


def clipped(
    *gradients: tuple[float, ...], max_norm: float, per_parameter: bool = False
) -> dict[str, float]:
    """Clip gradients by their norm, as gradguard does."""
    import torch

    from gradguard.clipping.clipper import Clipper
    from gradguard.clipping.fixed import ClipNorm

    parameters = [torch.zeros(len(gradient)) for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_().grad = torch.tensor(gradient)
    record = Clipper(parameters, ClipNorm(max_norm, per_parameter=per_parameter)).clip()
    first = parameters[0].grad
    assert first is not None  # it was given one
    before, after = float(record.total_before), float(record.total_after)
    return {
        "first": float(first[0]),
        "returned": before,
        "norm": after,
        "coefficient": after / before,
    }


def clipped_as_printed() -> dict[str, float]:
    """Return what the document prints as the result, and its norm."""
    norm = float(np.linalg.norm(CSDN_PRINTED))
    return {"first": CSDN_PRINTED[0], "norm": norm, "returned": 10**0.5}


def clipped_by_formula() -> dict[str, float]:
    """Evaluate the document's formula, clip(g, -C, C) / ||clip(g, -C, C) / eps||."""
    epsilon = 1e-6
    clamped = np.clip(CSDN_GRADIENT, -MAX_NORM, MAX_NORM)
    result = clamped / np.linalg.norm(clamped / epsilon)
    norm = float(np.linalg.norm(result))
    return {"first": float(result[0]), "norm": norm, "returned": float("nan")}


def chain(weight: float) -> dict[str, float]:
    """Differentiate y = w_50 ... w_2 w_1 x, all w alike, at x = 1."""
    import torch

    weights = torch.full((_LENGTH,), weight, dtype=torch.float64, requires_grad=True)
    y = weights.prod()
    (slopes,) = torch.autograd.grad(y, weights)
    return {"output": y.item(), "value": slopes[0].item()}


def logistic_map(x: Floats, *, iterations: int) -> tuple[Floats, Floats]:
    """Return y = f(f(..f(x))) and dy/dx for f(x) = 3.5 x (1 - x), of the shape of x."""
    y, slope = x, np.ones_like(x)
    for _ in range(iterations):
        y, slope = 3.5 * y * (1 - y), slope * 3.5 * (1 - 2 * y)
    return y, slope


def largest_slopes() -> dict[str, float]:
    """Return the largest |dy/dx| on [0, 1] of the logistic map, iterated 1 to 6 times."""
    x = np.linspace(0, 1, 200_001)
    slopes = {n: np.abs(logistic_map(x, iterations=n)[1]) for n in _ITERATIONS}
    flat = float((slopes[6] < _FLAT).mean())
    return {f"slope_{n}": float(slopes[n].max()) for n in _ITERATIONS} | {"flat": flat}


def targets() -> NDArray[np.float32]:
    """Return the targets that Brownlee's network is to predict, `[1000]`."""
    from gradguard.data.regression import RegressionData

    data = RegressionData()
    data.setup("fit")
    return np.concatenate([data.train[1].numpy(), data.test[1].numpy()])


def range_of_targets() -> dict[str, float]:
    """Return the range, the mean and the deviation of the targets."""
    y = targets()
    summary = {"least": y.min(), "largest": y.max(), "mean": y.mean(), "sd": y.std()}
    return {name: float(value) for name, value in summary.items()}
