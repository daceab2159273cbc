"""All rules over one recording."""

from collections.abc import Callable

from gradguard.health.clipping import clipping
from gradguard.health.collapsed import collapsed, dead
from gradguard.health.exploding import exploding, negative_loss, overshoot
from gradguard.health.finding import Finding
from gradguard.health.nonfinite import exploded, nonfinite_loss, overflow, refused
from gradguard.health.parameters import foreign, no_gradient, unoptimized
from gradguard.health.spike import spike
from gradguard.health.vanishing import exploding_at_init, vanishing
from gradguard.records.recording import Recording

_RULES: tuple[Callable[[Recording], Finding | None], ...] = (
    exploded,
    nonfinite_loss,
    overflow,
    refused,
    spike,
    exploding,
    overshoot,
    exploding_at_init,
    vanishing,
    collapsed,
    dead,
    negative_loss,
    no_gradient,
    unoptimized,
    foreign,
)

_WORST_FIRST = ("error", "warning", "note")


def diagnose(recording: Recording) -> list[Finding]:
    """Return what is the matter with a run, worst first, then by step.

    Only what its gradients, its loss and its clip tell: a run without findings may
    still learn nothing.

    Args:
        recording: One optimizer's of a run, from
            `gradguard.tensorboard.reader.read_recordings`.
    """
    found = [finding for rule in _RULES if (finding := rule(recording))]
    judged = clipping(recording, found)
    return sorted([*found, judged] if judged else found, key=_rank)


def _rank(finding: Finding) -> tuple[int, float]:
    step = float("inf") if finding.step is None else finding.step
    return _WORST_FIRST.index(finding.severity), step
