"""The logistic map, which is to a deep network what a toy is to a car."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def logistic_map(x: Floats, *, iterations: int) -> tuple[Floats, Floats]:
    """Return y = f(f(..f(x))) and dy/dx for f(x) = 3.5 x (1 - x), of the shape of x."""
    y, slope = x, np.ones_like(x)
    for _ in range(iterations):
        y, slope = 3.5 * y * (1 - y), slope * 3.5 * (1 - 2 * y)
    return y, slope
