"""A run in, what the band at the top of the page says of it out."""

from typing import Any

from gradguard.health.verdict import Cause
from gradguard.health.verdict import verdict as verdict_of
from gradguard.records.recording import Recording
from gradguard.tensorboard.page.look import look


def verdict(recording: Recording) -> dict[str, Any]:
    """Return the worst cause, and the `others` below it, each with the view that shows it.

    Where nothing is wrong, that is the verdict: severity "good". `max_norm` is the
    threshold to try, None where there is none.
    """
    found = verdict_of(recording)
    told = [_told(cause, recording) for cause in found.causes]
    if found.worst is None:
        told = [_good(found.text), *told]
    first, *others = told
    return {**first, "others": others}


def _told(cause: Cause, recording: Recording) -> dict[str, Any]:
    return {
        "severity": cause.severity,
        "kind": cause.kind,
        "text": cause.text,
        "why": cause.why,
        "with_it": [each.kind for each in cause.consequences if each.serious],
        "do": cause.do,
        "advice": cause.advice,
        "command": cause.command,
        "step": cause.step,
        "parameter": cause.parameter,
        "max_norm": cause.max_norm,
        "look": look(cause, recording.records),
    }


def _good(text: str) -> dict[str, Any]:
    nothing = dict.fromkeys(("kind", "why", "do", "advice", "command"), "")
    return {
        "severity": "good",
        "text": text,
        **nothing,
        "with_it": [],
        "step": None,
        "parameter": None,
        "max_norm": None,
        "look": {},
    }
