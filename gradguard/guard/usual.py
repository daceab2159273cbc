"""What is usual of a norm and a loss, and which step is far above it."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from gradguard.guard.spike import Spike, Watched
from gradguard.records.outliers import Usual


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


class SpikeWatch:
    """Tell the outliers among one optimizer's steps, one by one.

    Args:
        settings: What is an outlier.
        most: In a row, before the level is taken to have shifted.
    """

    def __init__(self, settings: Spike, most: int) -> None:
        self._settings = settings
        self._most = most
        self._usual = {
            watched: Usual(settings.window, settings.sigma)
            for watched in settings.watch
        }
        self.in_a_row = 0

    def look(self, norm: float, loss: float) -> Outlier | None:
        """Return the outlier of a step, None if it is usual, and learn from a usual one.

        Args:
            norm: Total before clipping; left out where it is not finite and above 0.
            loss: Likewise.
        """
        values: dict[Watched, float] = {"norm": norm, "loss": loss}
        logs = self._logs(values)
        for watched, log in logs.items():
            if self._usual[watched].is_exceeded_by(log):
                self.in_a_row += 1
                return Outlier(watched, values[watched], *self._usual[watched].bounds())
        self.in_a_row = 0
        self._learn(logs)
        return None

    @property
    def has_shifted(self) -> bool:
        """Whether there were more outliers in a row than outliers can be."""
        return self.in_a_row > self._most

    def accept(self, norm: float, loss: float) -> None:
        """Take the level of a step for usual from now on."""
        self.in_a_row = 0
        for usual in self._usual.values():
            usual.clear()
        self._learn(self._logs({"norm": norm, "loss": loss}))

    def state_dict(self) -> dict[str, Any]:
        """Return what is usual, in a form to save."""
        logs = {
            str(watched): torch.tensor(usual.logs, dtype=torch.float64)
            for watched, usual in self._usual.items()
        }
        return {**logs, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what was usual elsewhere."""
        self.in_a_row = state.get("in_a_row", 0)
        for watched, usual in self._usual.items():
            usual.clear()
            for log in state[watched].tolist() if watched in state else ():
                usual.add(log)

    def _logs(self, values: Mapping[Watched, float]) -> dict[Watched, float]:
        return {
            watched: math.log(values[watched])
            for watched in self._usual
            if 0 < values[watched] < math.inf
        }

    def _learn(self, logs: Mapping[Watched, float]) -> None:
        for watched, log in logs.items():
            self._usual[watched].add(log)


def shifted(step: int, outlier: Outlier, in_a_row: int) -> str:
    """Return what to say where so many outliers in a row are taken for usual."""
    return (
        f"step {step} counts as usual from now on, as the {in_a_row - 1} steps before it "
        f"were skipped for as much: {outlier}; if this is no new level but a training "
        "that diverges, lower the learning rate or clip"
    )
