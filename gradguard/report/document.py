"""Runs in, a JSON document out; docs/report.md has its schema."""

from dataclasses import asdict
from typing import Any

from gradguard import __version__
from gradguard.output import as_json
from gradguard.report.facts import facts, parameter_facts
from gradguard.report.runs import Found, Run
from gradguard.report.view import View

# Goes up when a field changes its meaning or goes away, not when one is added.
VERSION = 2


def document(found: Found, *, view: View) -> str:
    """Return everything the report says, as one JSON document."""
    content = {
        "version": VERSION,
        "gradguard": __version__,
        "runs": [_run(run, view) for run in found.runs],
        "left_out": [
            {"directory": directory, "reason": reason}
            for directory, reason in found.left_out
        ],
    }
    return as_json(content, indent=2)


def _run(run: Run, view: View) -> dict[str, Any]:
    return {
        "label": run.label,
        "directory": run.directory,
        "optimizer": run.optimizer,
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
        "abandoned": [branch._asdict() for branch in run.recording.abandoned],
        "facts": asdict(facts(run.recording)),
        "verdict": run.verdict.to_json(),
        "findings": [asdict(finding) for finding in run.findings],
        "suggestion": {
            "max_norm": run.suggestion.max_norm,
            "reason": run.suggestion.reason,
        },
        "layers": [asdict(row) for row in parameter_facts(run.recording, view)],
    }
