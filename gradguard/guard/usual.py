"""What is usual of a norm and a loss, and which step is far above it."""

import math
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradguard.guard.spike import FACTOR, Spike, Watched

_LARGEST = math.log(sys.float_info.max)


class Outlier(NamedTuple):
    """A value far above the usual.

    Attributes:
        watched: "norm" or "loss".
        value: Its value.
        usual: The geometric mean of the usual ones.
        limit: The largest that would have passed.
    """

    watched: Watched
    value: float
    usual: float
    limit: float

    def __str__(self) -> str:
        what = "total before clipping" if self.watched == "norm" else "loss"
        return (
            f"the {what} is {self.value:.3g}, where {self.usual:.3g} is usual "
            f"and {self.limit:.3g} the limit"
        )


class Window:
    """The logarithms of the last usual values of one quantity.

    Args:
        size: How many.
    """

    def __init__(self, size: int) -> None:
        self._logs: NDArray[np.float64] = np.zeros(size)
        self._count = 0

    def add(self, value: float) -> None:
        """Take a value for usual, in the place of the oldest; above 0."""
        self._logs[self._count % len(self._logs)] = math.log(value)
        self._count += 1

    def bounds(self, sigma: float) -> tuple[float, float]:
        """Return the usual value and the limit; NaN and Inf where too little is known."""
        if 2 * self._count < len(self._logs):
            return math.nan, math.inf
        logs = self._logs[: self._count]
        # By hand: `mean` and `std` of an array this short take three times as long.
        mean = float(logs.sum()) / len(logs)
        apart = logs - mean
        sd = math.sqrt(float(apart @ apart) / len(logs))
        return _exp(mean), _exp(mean + sigma * sd + math.log(FACTOR))

    def clear(self) -> None:
        """Forget all."""
        self._count = 0

    def state(self) -> Tensor:
        """Return the logarithms, the oldest first."""
        size = len(self._logs)
        known = self._logs[: min(self._count, size)]
        return torch.tensor(np.roll(known, -self._count if self._count > size else 0))

    def load(self, state: Tensor) -> None:
        """Go on from another window, from the last of its values if it was larger."""
        logs = state.numpy(force=True)[-len(self._logs) :]
        self._logs[: len(logs)] = logs
        self._count = len(logs)


def _exp(value: float) -> float:
    return math.exp(value) if value < _LARGEST else math.inf


class SpikeWatch:
    """Tell the outliers among one optimizer's steps, one by one.

    Args:
        settings: What is an outlier.
        most: In a row, before the level is taken to have shifted.
    """

    def __init__(self, settings: Spike, most: int) -> None:
        self._settings = settings
        self._most = most
        self._windows = {watched: Window(settings.window) for watched in settings.watch}
        self.in_a_row = 0

    def look(self, norm: float, loss: float) -> Outlier | None:
        """Return the outlier of a step, None if it is usual, and learn from a usual one.

        Args:
            norm: Total before clipping; left out where it is not finite and above 0.
            loss: Likewise.
        """
        values = {"norm": norm, "loss": loss}
        for watched, window in self._windows.items():
            usual, limit = window.bounds(self._settings.sigma)
            if limit < values[watched] < math.inf:
                self.in_a_row += 1
                return Outlier(watched, values[watched], usual, limit)
        self.in_a_row = 0
        self._learn(values)
        return None

    @property
    def has_shifted(self) -> bool:
        """Whether there were more outliers in a row than outliers can be."""
        return self.in_a_row > self._most

    def accept(self, norm: float, loss: float) -> None:
        """Take the level of a step for usual from now on."""
        self.in_a_row = 0
        for window in self._windows.values():
            window.clear()
        self._learn({"norm": norm, "loss": loss})

    def _learn(self, values: Mapping[str, float]) -> None:
        for watched, window in self._windows.items():
            if 0 < values[watched] < math.inf:
                window.add(values[watched])

    def state_dict(self) -> dict[str, Any]:
        """Return what has been learned, in a form to save."""
        windows = {str(name): window.state() for name, window in self._windows.items()}
        return {**windows, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what another one has learned."""
        self.in_a_row = state.get("in_a_row", 0)
        for watched, window in self._windows.items():
            if watched in state:
                window.load(state[watched])


def shifted(step: int, outlier: Outlier, in_a_row: int) -> str:
    """Return what to say where so many outliers in a row are taken for usual."""
    return (
        f"step {step} counts as usual from now on, as the {in_a_row - 1} steps before it "
        f"were skipped for as much: {outlier}; if this is no new level but a training "
        "that diverges, lower the learning rate or clip"
    )
