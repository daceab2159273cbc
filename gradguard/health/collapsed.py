"""Findings about gradients that died, and those that never lived."""

import numpy as np

from gradguard.health.finding import Finding, Severity
from gradguard.health.steps import finite_updates, only, sample, usual
from gradguard.health.words import chosen
from gradguard.names import named
from gradguard.records.recording import Recording
from gradguard.records.records import Flags, Records

# A parameter's share of the total, late over largest. Unclipped SRNs: at most 1e-5 for
# W, U, b and the embedding, in every seed; healthy and cured runs: at least 1e-2.
_FALL = 1e-3

# Share of the total that a parameter must have had to have been large.
_LARGE = 1e-3

# Below this a total is that of a run that has converged, whoever's share it is.
_ALIVE = 1e-2

# Share of steps without any gradient from which on a parameter is dead.
_DEAD = 0.95

# Fewer steps have no late half to speak of.
_STEPS = 10


def collapsed(recording: Recording) -> Finding | None:
    """Find parameters whose gradient was large and is small, under a total that is not.

    The total hides them: over an SRN with saturated units the output layer keeps it
    as high as it was.
    """
    usable = _with_gradient(recording.records)
    which = _collapsed(usable)
    if not which.any():
        return None
    names = chosen(usable, which)
    before = np.nan_to_num(usable.before[:, which])
    group = np.linalg.norm(before.astype(float), axis=1)
    peak, late = float(group.max()), float(np.median(group[len(group) // 2 :]))
    total = float(np.median(usable.total_before[len(group) // 2 :]))
    step = int(usable.steps[np.argmax(group)])
    return Finding(
        "collapsed",
        _severity(which),
        f"The gradient of {named(names)}, {peak:.3g} at step {step}, is {late:.2g} "
        f"in the second half of the run; the total, {total:.3g}, does not show it.",
        "Units are saturated or dead: clip by norm or lower the learning rate, "
        "and start again.",
        step,
        names[int(np.argmax(before.max(axis=0)))],
        {"peak_before": peak, "late_before": late, "late_total_before": total},
    )


def dead(recording: Recording) -> Finding | None:
    """Find parameters whose gradient is exactly zero on nearly all steps."""
    usable = _with_gradient(recording.records)
    if len(usable.steps) < _STEPS:
        return None  # a layer before one that starts from zero gets zeros at first
    having = (~usable.missing).sum(axis=0)
    zeros = (usable.before == 0).sum(axis=0)
    which = (zeros > 0) & (zeros >= _DEAD * having) & ~_collapsed(usable)
    if not which.any():
        return None
    names = chosen(usable, which)
    least = float((zeros[which] / having[which]).min())
    return Finding(
        "dead",
        _severity(which),
        f"The gradient of {named(names)} is exactly zero on at least {least:.0%} "
        "of the steps.",
        "No signal comes through: dead ReLU units, saturated units, or a branch "
        "that is never taken. Look at what lies between it and the loss.",
        int(usable.steps[0]),
        names[0],
        {"parameters": float(len(names)), "zero_fraction": least},
    )


def _severity(which: Flags) -> Severity:
    """Where it is half of the parameters or more, there is no run left to use."""
    return "error" if which.mean() >= 1 / 2 else "warning"


def _with_gradient(records: Records) -> Records:
    """Return the usable steps that have a gradient at all: a loss of 0 has none."""
    usable = finite_updates(records)
    return only(usable, usable.total_before > 0)


def _collapsed(records: Records) -> Flags:
    """Return which parameters lost their share of a total that lives, `[P]`."""
    which = np.zeros(len(records.names), bool)
    if len(records.steps) < _STEPS:
        return which
    shares = records.before / records.total_before[:, None].astype(np.float32)
    half = len(records.steps) // 2
    late = usual(sample(records[half:]).before)
    late_total = float(np.median(records.total_before[half:]))
    if late_total < _ALIVE * float(np.median(records.total_before[:half])):
        return which
    peak = np.fmax.reduce(shares, axis=0)
    return np.asarray((peak >= _LARGE) & (late / late_total < _FALL * peak))
