"""Which steps and which parameters the pictures and the table by layer show."""

import re
from dataclasses import dataclass, replace

import numpy as np

from gradguard.errors import ConfigError
from gradguard.records.recording import Recording


@dataclass(frozen=True)
class View:
    """A part of a recording; facts and findings are of the whole.

    Attributes:
        start: The first step.
        stop: The step after the last; None for all there are.
        pattern: Parameters whose name it is found in; None for all.
        points: Largest number of points of a line; more than any picture has pixels.
    """

    start: int = 0
    stop: int | None = None
    pattern: "re.Pattern[str] | None" = None
    points: int = 1500

    def rows(self, recording: Recording) -> Recording:
        """Return the recording of the steps in view."""
        steps = recording.records.steps
        stop = np.inf if self.stop is None else self.stop
        inside = (steps >= self.start) & (steps < stop)
        if not inside.any():
            raise ConfigError(
                f"--steps leaves nothing to show: steps {steps[0]} to {steps[-1]} are recorded"
            )
        return replace(recording, records=recording.records[inside])

    def names(self, names: tuple[str, ...]) -> list[str]:
        """Return the names in view."""
        found = [
            name for name in names if not self.pattern or self.pattern.search(name)
        ]
        if not found:
            assert self.pattern is not None  # a recording has parameters
            raise ConfigError(
                f"--parameters {self.pattern.pattern!r} is found in no name such as "
                f"{names[0]!r}"
            )
        return found


def view(*, steps: str | None = None, parameters: str | None = None) -> View:
    """Return the view that options ask for.

    Args:
        steps: "40" for the first 40 steps, "40:100" or "40:" for those from 40 on.
        parameters: A regular expression.

    Raises:
        ConfigError: If one cannot be read.
    """
    start, stop = _steps(steps) if steps is not None else (0, None)
    try:
        return View(start, stop, re.compile(parameters) if parameters else None)
    except re.error as error:
        raise ConfigError(
            f"--parameters {parameters!r} is no regular expression: {error.msg}"
        ) from None


def _steps(text: str) -> tuple[int, int | None]:
    found = re.fullmatch(r"(?:(?P<start>\d+)(?P<colon>:))?(?P<stop>\d+)?", text)
    if not text or not found:
        raise ConfigError(f"--steps expects 40, 40:100 or 40:, got {text!r}")
    start, stop = found["start"], found["stop"]
    return int(start or 0), int(stop) if stop else None
