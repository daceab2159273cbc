"""Runs in, a JSON document out; docs/report.md has its schema."""

import json
from dataclasses import asdict
from typing import Any

import numpy as np

from gradguard.report.facts import facts
from gradguard.report.layers import layers
from gradguard.report.runs import Found, Run
from gradguard.report.view import View

# Goes up when a field changes its meaning or goes away, not when one is added.
VERSION = 1


def document(found: Found, *, view: View) -> str:
    """Return everything the report says, as one JSON document.

    NaN, which stands for "not known", is null; an infinity is the text "Infinity" or
    "-Infinity".
    """
    content = {
        "version": VERSION,
        "runs": [_run(run, view) for run in found.runs],
        "left_out": [
            {"directory": str(directory), "reason": reason}
            for directory, reason in found.left_out
        ],
    }
    return json.dumps(_plain(content), indent=2, allow_nan=False)


def _run(run: Run, view: View) -> dict[str, Any]:
    shown = view.rows(run.recording)
    names = set(view.names(shown.records.names))
    return {
        "label": run.label,
        "directory": str(run.directory),
        "optimizer": run.optimizer,
        "experiment": run.kept and run.kept._asdict(),
        "clips": [
            {
                "step": clip.step,
                **clip.clip.to_json(),
                "text": clip.text,
                "max_norm": clip.max_norm,
                "per_parameter": clip.per_parameter,
            }
            for clip in run.recording.clips
        ],
        "unoptimized": run.recording.unoptimized,
        "facts": asdict(facts(run.recording)),
        "findings": [asdict(finding) for finding in run.findings],
        "suggestion": {
            "max_norm": run.suggestion.max_norm,
            "reason": run.suggestion.reason,
        },
        "layers": [asdict(layer) for layer in layers(shown) if layer.name in names],
    }


def _plain(value: Any) -> Any:
    """Return the value with every number that JSON does not have replaced."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None if np.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
