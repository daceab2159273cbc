"""Steps so far out that they are written at once: should the process die, one wants them."""

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gradguard.records.records import MISSING

_FAR_ABOVE_MEDIAN = 50.0


class SpikeDetector:
    """Tell steps that are not finite or far above the recent median.

    Args:
        num_parameters: Parameters in a row, `P`.
    """

    def __init__(self, num_parameters: int) -> None:
        self._root = math.sqrt(num_parameters)
        self._limit = np.inf
        self._was_far = False

    def learn(self, totals: NDArray[np.floating]) -> None:
        """Take the median of totals before clipping for what is usual from now on."""
        healthy = totals[np.isfinite(totals)]
        middle = len(healthy) // 2
        median = float(np.sort(healthy)[middle]) if len(healthy) else np.inf
        self._limit = _FAR_ABOVE_MEDIAN * median

    def is_news(self, before: Tensor, after: Tensor) -> bool:
        """Whether a step is the first of a row of such, norms `[P]` each.

        False where looking syncs.
        """
        if not before.is_cpu:
            return False
        norms = before.numpy()
        # No total exceeds sqrt(P) times the largest norm, which is found at once.
        if norms[norms.argmax()].item() * self._root < self._limit:
            self._was_far = False
            return False
        norms = norms.astype(np.float64)  # whose squares cannot overflow
        with np.errstate(all="ignore"):
            total = np.linalg.norm(norms[~(norms < 0)])  # NaN is not below zero
        skipped = (after.numpy() == MISSING).all()
        is_far = not skipped and not total < self._limit
        is_news = is_far and not self._was_far
        self._was_far = is_far
        return bool(is_news)
