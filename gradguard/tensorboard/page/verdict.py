"""A run in, what is the matter with it and what to do out, worst first."""

from collections.abc import Mapping
from typing import Any

from gradguard.health.diagnosis import diagnose
from gradguard.health.finding import Finding
from gradguard.health.threshold import suggest
from gradguard.records.clips import OURS
from gradguard.records.recording import Recording
from gradguard.tensorboard.page.look import look

# Of the kinds for which a threshold is none of the answers: a line to copy.
_DO: Mapping[str, str] = {
    "nonfinite-gradient": 'GradGuard(on_nonfinite="skip", dump_dir="bad-steps")',
    "spike": 'GradGuard(on_spike="skip")',
}

_PREVENTED = ("prevented", "perhaps prevented", "bounded")


def verdict(recording: Recording) -> dict[str, Any]:
    """Return the worst finding, and the `others` below it, each with the view of it.

    Where nothing serious was found, that is the verdict: severity "good". `max_norm` is
    the threshold to try, None where there is none.
    """
    found = diagnose(recording)
    serious = bool(found) and found[0].serious
    max_norm = suggest(recording).max_norm if serious else None
    told = [_told(finding, recording, max_norm) for finding in found]
    first, *others = told if serious else [_good(recording), *told]
    return {**first, "max_norm": max_norm, "others": others}


def _told(
    finding: Finding, recording: Recording, max_norm: float | None
) -> dict[str, Any]:
    return {
        "severity": finding.severity,
        "kind": finding.kind,
        "text": finding.text,
        "advice": finding.advice,
        "do": _do(finding, recording, max_norm),
        "step": finding.step,
        "parameter": finding.parameter,
        "command": finding.command,
        "look": look(finding, recording.records),
    }


def _good(recording: Recording) -> dict[str, Any]:
    count = len(recording.records.steps)
    return {
        "severity": "good",
        "kind": "",
        "text": f"Nothing wrong found in {count} step{'s' * (count != 1)}.",
        "advice": "",
        "do": "",
        "step": None,
        "parameter": None,
        "command": "",
        "look": {},
    }


def _do(finding: Finding, recording: Recording, max_norm: float | None) -> str:
    """Return a line of code to try; empty where there is none that fits all."""
    if max_norm is None or finding.under_clip not in _PREVENTED:
        return _DO.get(finding.kind, "")
    if recording.clips[-1].clip.by == OURS:
        return f"GradGuard(clip=ClipNorm({max_norm:g}))"
    return f"Trainer(gradient_clip_val={max_norm:g})"
