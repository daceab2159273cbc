"""What a diagnosis is made of."""

from dataclasses import dataclass, field
from typing import Literal

# docs/health.md says of each what it means, by which rule, and what to try.
Kind = Literal[
    "exploded",
    "nonfinite-gradient",
    "nonfinite-loss",
    "frozen",
    "overflow",
    "refused",
    "spike",
    "exploding",
    "overshoot",
    "exploding-at-init",
    "vanishing",
    "collapsed",
    "dead",
    "clip-too-high",
    "clip-always",
    "clip-never",
    "unclipped",
    "no-gradient",
    "unoptimized",
    "foreign",
    "negative-loss",
]

# What becomes of a kind under a clip by norm whose threshold is right. "kept": it scales
# all layers alike, and keeps their ratio.
UnderClip = Literal[
    "prevented", "perhaps prevented", "bounded", "kept", "not prevented", "unrelated"
]
_UNDER_CLIP: dict[Kind, UnderClip] = {
    "exploding": "prevented",
    "overshoot": "prevented",
    "collapsed": "prevented",
    # A NaN after growth may have other causes, but a clip is the first thing to try.
    "exploded": "perhaps prevented",
    "overflow": "bounded",
    "frozen": "bounded",
    "spike": "bounded",
    "vanishing": "kept",
    "exploding-at-init": "kept",
    "nonfinite-gradient": "not prevented",
    "refused": "not prevented",
}

# An error: the run cannot be used. A warning: it will not learn what it could. A note:
# worth knowing, nothing may be wrong.
Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing that is the matter with a run.

    Attributes:
        kind: Which one, a word such as "exploding"; docs/health.md lists them.
        severity: How bad it is.
        text: What was seen, with its numbers, a sentence or two.
        advice: What to try, a sentence or two.
        step: Where to look: optimizer steps completed before; None if nowhere special.
        parameter: The parameter most concerned; None if none is.
        numbers: The evidence, by name.
        command: A line to copy: it runs a bad step again, or would save one for that; ""
            where there is no such step.
    """

    kind: Kind
    severity: Severity
    text: str
    advice: str
    step: int | None = None
    parameter: str | None = None
    numbers: dict[str, float] = field(default_factory=dict)
    command: str = ""

    @property
    def serious(self) -> bool:
        """Whether it is an error or a warning."""
        return self.severity != "note"

    @property
    def under_clip(self) -> UnderClip:
        """What a clip by norm makes of it."""
        return _UNDER_CLIP.get(self.kind, "unrelated")

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"
