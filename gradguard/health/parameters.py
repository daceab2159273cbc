"""Findings about parameters that training does not reach."""

import numpy as np

from gradguard.health.finding import Finding
from gradguard.health.words import chosen, named
from gradguard.recording import Recording

# How records call a parameter that the optimizer holds and the model does not name.
_FOREIGN = "unnamed."


def parameter_findings(recording: Recording) -> list[Finding]:
    """Find parameters without gradient, in no optimizer, or of another model."""
    return [
        *_without_gradient(recording),
        *_unoptimized(recording),
        *_foreign(recording),
    ]


def _without_gradient(recording: Recording) -> list[Finding]:
    records = recording.records
    if not len(records.steps):
        return []
    names = chosen(records, np.asarray(records.missing.all(axis=0)))
    if not names:
        return []
    return [
        Finding(
            "no-gradient",
            "warning",
            f"{named(names)}: no gradient on any of {len(records.steps)} steps.",
            "The loss does not depend on it: use it in forward, or set "
            "requires_grad=False.",
            parameter=names[0],
            numbers={"parameters": float(len(names))},
        )
    ]


def _unoptimized(recording: Recording) -> list[Finding]:
    names = recording.unoptimized
    if not names:
        return []
    return [
        Finding(
            "unoptimized",
            "warning",
            f"{named(names)}: trainable, and in no optimizer.",
            "Give it to an optimizer in configure_optimizers, or set "
            "requires_grad=False.",
            parameter=names[0],
            numbers={"parameters": float(len(names))},
        )
    ]


def _foreign(recording: Recording) -> list[Finding]:
    names = [name for name in recording.records.names if name.startswith(_FOREIGN)]
    if not names:
        return []
    return [
        Finding(
            "foreign",
            "warning",
            f"The optimizer holds {len(names)} parameters that are not the model's: "
            f"{named(names)}.",
            "Make the optimizer in configure_optimizers, from self.parameters(): one "
            "made for an earlier model goes on updating that.",
            parameter=names[0],
            numbers={"parameters": float(len(names))},
        )
    ]
