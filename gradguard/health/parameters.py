"""Findings about parameters that training does not reach."""

from collections.abc import Sequence

import numpy as np

from gradguard.health.finding import Finding, Kind
from gradguard.health.words import chosen
from gradguard.names import named
from gradguard.records.recording import Recording

# How records call a parameter that the optimizer holds and the model does not name.
_FOREIGN = "unnamed."


def no_gradient(recording: Recording) -> Finding | None:
    """Find parameters that never got a gradient."""
    records, steps = recording.records, len(recording.records.steps)
    absent = chosen(records, np.asarray(records.missing.all(axis=0))) if steps else []
    return _finding(
        "no-gradient",
        absent,
        f"{{}}: no gradient on any of {steps} steps.",
        "The loss does not depend on it: use it in forward, or set "
        "requires_grad=False.",
    )


def unoptimized(recording: Recording) -> Finding | None:
    """Find trainable parameters that no optimizer holds."""
    return _finding(
        "unoptimized",
        recording.unoptimized,
        "{}: trainable, and in no optimizer.",
        "Give it to an optimizer in configure_optimizers, or set requires_grad=False.",
    )


def foreign(recording: Recording) -> Finding | None:
    """Find parameters of another model that the optimizer holds."""
    names = [name for name in recording.records.names if name.startswith(_FOREIGN)]
    return _finding(
        "foreign",
        names,
        f"The optimizer holds {len(names)} parameters that are not the model's: {{}}.",
        "Make the optimizer in configure_optimizers, from self.parameters(): one made "
        "for an earlier model goes on updating that.",
    )


def _finding(
    kind: Kind, names: Sequence[str], text: str, advice: str
) -> Finding | None:
    """Return a finding about the names, which take the place of {} in its text."""
    if not names:
        return None
    told, numbers = text.format(named(names)), {"parameters": float(len(names))}
    return Finding(kind, "warning", told, advice, parameter=names[0], numbers=numbers)
