"""Steps so exceptional that they are written at once: should the process die, one wants them."""

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gradguard.records.records import MISSING

_FAR_ABOVE_MEDIAN = 50.0


class SpikeDetector:
    """Ring at the first of several steps that are not finite or far above the median.

    Args:
        num_parameters: Parameters in a row, `P`.
    """

    def __init__(self, num_parameters: int) -> None:
        self._root = math.sqrt(num_parameters)
        self._limit = np.inf
        self._rang = False

    def learn(self, totals: NDArray[np.floating]) -> None:
        """Take the median of totals before clipping for what is usual from now on."""
        healthy = totals[np.isfinite(totals)]
        middle = len(healthy) // 2
        median = float(np.sort(healthy)[middle]) if len(healthy) else np.inf
        self._limit = _FAR_ABOVE_MEDIAN * median

    def rings(self, before: Tensor, after: Tensor) -> bool:
        """Whether it rings for a step, norms `[P]` each; False where looking syncs."""
        if not before.is_cpu:
            return False
        norms = before.numpy()
        # No total exceeds sqrt(P) times the largest norm, which is found at once.
        if norms[norms.argmax()].item() * self._root < self._limit:
            self._rang = False
            return False
        norms = norms.astype(np.float64)  # whose squares cannot overflow
        with np.errstate(all="ignore"):
            total = np.linalg.norm(norms[~(norms < 0)])  # NaN is not below zero
        skipped = (after.numpy() == MISSING).all()
        exceptional = not skipped and not total < self._limit
        rings = exceptional and not self._rang
        self._rang = exceptional
        return bool(rings)
