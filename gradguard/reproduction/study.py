"""What a reproduction is made of: studies, their trials, and the bands around them."""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from gradguard.health.finding import Finding
from gradguard.records.recording import Recording
from gradguard.reproduction.claims.documents import Document

if TYPE_CHECKING:  # a list of names needs no pictures
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Trial:
    """Something to run once for each seed, a row of its study's table.

    Attributes:
        label: What sets it apart from the others of its study.
        config: Bundled config that it starts from.
        assignments: What it changes there, as `--set` takes it.
        first_step_only: Whether one backward pass over all the data is all it needs.
        compute: Returns its numbers, where nothing is trained; it is pickled.
        quick: Whether `--quick` runs it too.
    """

    label: str
    config: str = ""
    assignments: tuple[str, ...] = ()
    first_step_only: bool = False
    compute: Callable[[], dict[str, float]] | None = None
    quick: bool = True

    @property
    def command(self) -> str:
        """The command line that repeats the trial; "" if nothing is trained."""
        if self.compute:
            return ""
        words = ["gradguard", "inspect" if self.first_step_only else "train"]
        words += ["--config", self.config]
        for assignment in self.assignments:
            words += ["--set", assignment]
        return shlex.join([*words, *["--full-batch"] * self.first_step_only])


class TrialResult(NamedTuple):
    """What came out of a trial with one seed.

    Attributes:
        numbers: Everything measured, by its name in `HEADINGS`.
        recording: What gradguard recorded; None where nothing was trained.
        findings: What is the matter with it, worst first.
    """

    numbers: dict[str, float]
    recording: Recording | None = None
    findings: list[Finding] = []  # noqa: RUF012 (never changed)


# By label of the trial, then by seed; every trial that trains has the same seeds.
Results: TypeAlias = Mapping[str, Mapping[int, TrialResult]]
OneSeed: TypeAlias = Mapping[str, TrialResult]


@dataclass(frozen=True)
class Band:
    """low <= number <= high, for one number of one trial; False where it is NaN.

    Attributes:
        trial: Label of the trial.
        number: Name of the number.
        low: Least value, or the label of the trial whose number is.
        high: Largest value, or the label of the trial whose number is.
    """

    trial: str
    number: str
    low: float | str = -inf
    high: float | str = inf

    def holds(self, runs: OneSeed) -> bool:
        """Whether the number is within the bounds, among the runs of one seed."""
        low, high = (self._bound(bound, runs) for bound in (self.low, self.high))
        return low <= runs[self.trial].numbers[self.number] <= high

    def _bound(self, bound: float | str, runs: OneSeed) -> float:
        return runs[bound].numbers[self.number] if isinstance(bound, str) else bound

    @property
    def range(self) -> str:
        """The bounds in words: "at most 60", "from 150 to 1200"."""
        low, high = (
            f"that of {bound}" if isinstance(bound, str) else f"{bound:g}"
            for bound in (self.low, self.high)
        )
        if low == high:
            return low
        if self.low == -inf:
            return f"at most {high}"
        return f"at least {low}" if self.high == inf else f"from {low} to {high}"

    @property
    def trials(self) -> set[str]:
        """Labels of the trials whose numbers the band compares."""
        return {self.trial} | {b for b in (self.low, self.high) if isinstance(b, str)}


@dataclass(frozen=True)
class Study:
    """One experiment of a document: a claim, and what puts it to the test.

    Attributes:
        name: What to call it on the command line.
        title: The claim in a few words.
        document: Where the claim stands.
        claim: What the document says, shortly.
        trials: What is run.
        numbers: What the table shows of each trial, by its name in `HEADINGS`.
        expected: What the claim comes to, in numbers.
        bands: Wider than anything we saw over 20 to 100 seeds, unless the name says
            otherwise: only a changed experiment leaves them.
        reading: What to make of the verdict.
        figure: Draws the results.
    """

    name: str
    title: str
    document: Document
    claim: str
    trials: tuple[Trial, ...]
    numbers: tuple[str, ...]
    expected: tuple[Band, ...]
    reading: str
    figure: Callable[[Results], "Figure"]
    bands: tuple[Band, ...] = ()
