"""A recording in, one verdict out: what is wrong, since when, where, why, what to do."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gradguard.health.diagnosis import diagnose
from gradguard.health.finding import Finding, Kind, Severity
from gradguard.health.remedy import Remedy, remedy
from gradguard.records.recording import Recording

# What follows from a kind, or led to it, once that kind is found: told below it. Those
# that led to it come first, the one that explains most in front.
_PART_OF: dict[Kind, tuple[Kind, ...]] = {
    "exploded": (
        "exploding", "exploding-at-init", "overshoot", "spike", "overflow", "frozen",
        "nonfinite-loss", "collapsed", "dead", "refused", "clip-too-high", "clip-always",
        "unclipped",
    ),
    "nonfinite-gradient": ("nonfinite-loss", "refused", "unclipped"),
    "frozen": ("exploding", "exploding-at-init", "overflow", "clip-too-high", "clip-always"),
    "collapsed": (
        "exploding", "overshoot", "spike", "dead", "clip-too-high", "clip-always", "unclipped",
    ),
    "exploding": ("overflow", "overshoot", "clip-too-high", "clip-always", "unclipped"),
    "overshoot": ("spike", "clip-too-high", "clip-always", "unclipped"),
    "exploding-at-init": ("vanishing", "overflow", "unclipped"),
    "vanishing": ("dead", "clip-always", "unclipped"),
    "refused": ("spike", "unclipped"),
    "spike": ("overflow", "unclipped"),
}  # fmt: skip

# Those of them that explain; the others only go along.
_EXPLAINS: tuple[Kind, ...] = (
    "exploding", "exploding-at-init", "overshoot", "spike", "overflow"
)  # fmt: skip

# Notes on a clip that was not needed: facts, and nothing found.
_NO_NEWS: tuple[Kind, ...] = ("unclipped", "clip-never")


@dataclass(frozen=True)
class Cause:
    """One thing that is wrong, with all that belongs to it.

    Attributes:
        kind: That of its worst finding.
        severity: How bad that is.
        text: What was seen, since when and where, in one sentence.
        why: What led to it, or was seen beside it; "" where nothing more is known.
        step: Where to look: optimizer steps completed before; None if nowhere special.
        parameter: The parameter most concerned; None if none is.
        do: A line of code to copy; "" where none is known.
        advice: Where its number is from; what to try where there is none.
        command: A command that runs the bad step again; "" where none was saved.
        max_norm: The largest norm that `do` lets through; None if it is about none.
        consequences: The other findings that belong to it.
    """

    kind: Kind
    severity: Severity
    text: str
    why: str
    step: int | None
    parameter: str | None
    do: str
    advice: str
    command: str
    max_norm: float | None = None
    consequences: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What is to be said of a run, and nothing else.

    Attributes:
        causes: What is wrong, worst first, then notes; none if nothing was found.
        looked_at: How much was looked at, as "250 steps of 6 parameters".
    """

    causes: tuple[Cause, ...]
    looked_at: str

    @property
    def worst(self) -> Cause | None:
        """The worst of what is wrong; None where nothing is."""
        return next((one for one in self.causes if one.severity != "note"), None)

    @property
    def severity(self) -> Severity | None:
        """How bad the run is; None where nothing was found, or notes alone."""
        return self.worst.severity if self.worst else None

    @property
    def text(self) -> str:
        """The verdict in one sentence."""
        return self.worst.text if self.worst else f"Nothing found in {self.looked_at}."

    def to_json(self) -> dict[str, Any]:
        """Return the verdict in the types of JSON: the worst cause, and the others."""
        worst = self.worst
        return {
            "severity": self.severity,
            "text": self.text,
            "looked_at": self.looked_at,
            **(
                {k: v for k, v in asdict(worst).items() if k != "text"} if worst else {}
            ),
            "others": [asdict(one) for one in self.causes if one is not worst],
        }


def verdict(
    recording: Recording, *, optimizer: str = "", found: Sequence[Finding] | None = None
) -> Verdict:
    """Return what is wrong with a run, each cause once, and what to do about it.

    Args:
        recording: One optimizer's of a run.
        optimizer: Its name where the run has several, of which the Trainer clips none.
        found: What `diagnose` says of it, if that is known.
    """
    findings = list(diagnose(recording) if found is None else found)
    causes = tuple(
        _cause(head, others, remedy(recording, [head, *others], optimizer, findings))
        for head, others in _grouped(findings)
    )
    return Verdict(causes, looked_at(recording))


def looked_at(recording: Recording) -> str:
    """Return how many steps of how many parameters were recorded, in words."""
    steps, parameters = len(recording.records.steps), len(recording.records.names)
    return (
        f"{steps} step{'s' * (steps != 1)} of {parameters} "
        f"parameter{'s' * (parameters != 1)}"
    )


def first_sentence(text: str) -> str:
    """Return the first sentence of a text.

    Examples:
        >>> first_sentence("The total is 2.5. Nothing clips.")
        'The total is 2.5.'
    """
    first, end, _ = text.partition(". ")
    return first + "." * bool(end)


def _grouped(findings: Sequence[Finding]) -> Iterator[tuple[Finding, list[Finding]]]:
    """Yield each cause, worst first: its worst finding, and those that belong to it."""
    left = list(findings)
    while left:
        head = left.pop(0)
        kinds = _PART_OF.get(head.kind, ())
        others = sorted(
            (one for one in left if one.kind in kinds),
            key=lambda one: kinds.index(one.kind),
        )
        left = [one for one in left if one.kind not in kinds]
        if head.serious or head.kind not in _NO_NEWS:
            yield head, others


def _cause(head: Finding, others: list[Finding], found: Remedy) -> Cause:
    text = first_sentence(head.text)
    explaining = next((one for one in others if one.kind in _EXPLAINS), None)
    rest = head.text.removeprefix(text).strip()
    return Cause(
        head.kind,
        head.severity,
        text,
        first_sentence(explaining.text) if explaining else rest,
        head.step,
        head.parameter,
        found.do,
        found.advice,
        found.command,
        found.max_norm,
        tuple(others),
    )
