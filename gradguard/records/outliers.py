"""Which values lie far above those before them: the rule of a spike."""

import math
from collections import deque
from typing import NamedTuple

import numpy as np

from gradguard.records.records import Doubles

# Standard deviations above the mean, of logarithms, over so many usual values before.
SIGMA = 6.0
WINDOW = 128

# An outlier stays one when divided by this, however little the usual values scatter.
FACTOR = 4.0

# So many outliers in a row; where there is one more, the level has shifted.
IN_A_ROW = 10

_LARGEST_LOG = math.log(np.finfo(np.float64).max)


class Outlier(NamedTuple):
    """A value far above the usual ones before it.

    Attributes:
        row: Which one it is, from 0.
        value: The value.
        usual: Geometric mean of the usual ones.
        limit: The largest value that would have been usual.
    """

    row: int
    value: float
    usual: float
    limit: float

    @property
    def times(self) -> float:
        """How many times the usual it is."""
        return self.value / self.usual


def outliers(values: Doubles) -> list[Outlier]:
    """Find v with log v > mean(log u) + 6 sd(log u) + log 4, u the last 128 usual values.

    No outlier is usual, nor is what is not finite or not above 0; nothing is an outlier
    before there are 64 usual values. Of more than 10 in a row none is: the level has
    shifted, and from there other values are usual. What rises slowly takes the usual along.

    Args:
        values: `[S]`, in the order in which they were seen.
    """
    found: list[Outlier] = []
    usual, in_a_row = Usual(), 0
    rows = np.flatnonzero(np.isfinite(values) & (values > 0))
    # Numbers of Python: one by one they are taken ten times as fast as those of NumPy.
    logs = np.log(values[rows]).tolist()
    for row, log in zip(rows.tolist(), logs, strict=True):
        if usual.is_exceeded_by(log):
            in_a_row += 1
            if in_a_row <= IN_A_ROW:
                found.append(Outlier(row, float(values[row]), *usual.bounds()))
                continue
            del found[-IN_A_ROW:]
            usual.clear()
        usual.add(log)
        in_a_row = 0
    return found


class Usual:
    """The logarithms of the last usual values of one quantity.

    Args:
        window: How many.
        sigma: Standard deviations above their mean that no usual value is.
    """

    def __init__(self, window: int = WINDOW, sigma: float = SIGMA) -> None:
        self.window = window
        self.sigma = sigma
        self.logs: deque[float] = deque()
        self._sum = self._squares = 0.0

    def add(self, log: float) -> None:
        """Take a value for usual, in the place of the oldest."""
        self.logs.append(log)
        self._sum += log
        self._squares += log * log
        if len(self.logs) > self.window:
            oldest = self.logs.popleft()
            self._sum -= oldest
            self._squares -= oldest * oldest

    def is_exceeded_by(self, log: float) -> bool:
        """Whether a value is far above; never where too little is known."""
        count = len(self.logs)
        if 2 * count < self.window:
            return False
        mean = self._sum / count
        above = log - mean - math.log(FACTOR)
        # Squared, for hardly any value is above at all, and needs a root.
        variance = self._squares / count - mean * mean
        return above > 0 and above * above > self.sigma * self.sigma * variance

    def bounds(self) -> tuple[float, float]:
        """Return the usual value, and the limit."""
        logs = np.array(self.logs)
        limit = logs.mean() + self.sigma * logs.std() + math.log(FACTOR)
        return math.exp(logs.mean()), math.exp(min(limit, _LARGEST_LOG))

    def clear(self) -> None:
        """Forget all."""
        self.logs.clear()
        self._sum = self._squares = 0.0
