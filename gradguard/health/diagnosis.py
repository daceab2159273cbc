"""All rules over one recording."""

from gradguard.health.clipping import clip_findings
from gradguard.health.collapsed import collapsed, dead
from gradguard.health.exploding import exploding, negative_loss, overshoot
from gradguard.health.finding import Finding
from gradguard.health.nonfinite import exploded, nonfinite_loss, overflow, refused
from gradguard.health.parameters import parameter_findings
from gradguard.health.vanishing import exploding_at_init, vanishing
from gradguard.records.recording import Recording

_RULES = (
    exploded,
    nonfinite_loss,
    overflow,
    refused,
    exploding,
    overshoot,
    exploding_at_init,
    vanishing,
    collapsed,
    dead,
    negative_loss,
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
    found = [finding for rule in _RULES for finding in rule(recording.records)]
    found += clip_findings(recording, found)
    found += parameter_findings(recording)
    return sorted(found, key=_rank)


def _rank(finding: Finding) -> tuple[int, float]:
    step = float("inf") if finding.step is None else finding.step
    return _WORST_FIRST.index(finding.severity), step
