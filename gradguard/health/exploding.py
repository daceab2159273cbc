"""Findings about growth: of the gradient, before it overflows, and of the loss."""

import numpy as np

from gradguard.health.finding import Finding
from gradguard.health.steps import only, spikes, updates
from gradguard.health.words import fold, share
from gradguard.records.recording import Recording
from gradguard.records.records import Doubles, Flags, Records

# An explosion is a total that rises three updates running, to ten times the largest
# total before them. The sources' own signs, doubling three times running or 50 times the
# first norm, also fire on healthy networks that converge, whose norms are small and
# noisy (docs/health.md, "How often it is wrong").
_RISING = 3
_GROWTH = 10.0

# Of the first loss. Cured and healthy runs peaked at 2.5 times and ended below it;
# unclipped SRNs peaked at 60 to 95 times and ended above 30 times.
_PEAK_LOSS = 10.0
_LATE_LOSS = 3.0


def exploding(recording: Recording) -> Finding | None:
    """Find the step at which the total begins to run away, and the parameter that leads.

    A note where a clip bounded the step.
    """
    applied = updates(recording.records)
    rows = np.flatnonzero(_runs_away(applied.total_before))
    if len(rows):  # a spike has two rises before it now and then
        rows = np.setdiff1d(rows, [one.row for one in spikes(applied)])
    if not len(rows):
        return None
    unbounded = rows[~applied.clipped[rows]]
    row = int(unbounded[0] if len(unbounded) else rows[0])
    since = row - _RISING
    step = int(applied.steps[row])
    largest = float(applied.total_before[: since + 1].max())
    growth = applied.total_before[row] / largest if largest else np.inf
    name = _fastest(applied, since, row)
    clipped = "" if len(unbounded) else " The clip bounded every such step."
    return Finding(
        "exploding",
        "warning" if len(unbounded) else "note",
        f"The total before clipping grew {fold(growth)} within {_RISING} steps, to "
        f"{applied.total_before[row]:.3g} at step {step}, fastest in {name}.{clipped}",
        "Clip by norm, lower the learning rate, or scale the targets."
        if len(unbounded)
        else "Keep the clip.",
        step,
        name,
        {"total_before": float(applied.total_before[row]), "growth": float(growth)},
    )


def overshoot(recording: Recording) -> Finding | None:
    """Find a loss that jumped after a large step, stayed finite and never came back."""
    records = recording.records
    if (records.nonfinite & ~records.skipped).any():
        return None  # it did not stay finite
    applied = updates(records)
    usable = only(applied, np.isfinite(applied.loss))
    losses = usable.loss.astype(float)  # ten times a float32 may be none
    if not len(losses) or losses.min() <= 0:
        return None
    first, peak = float(losses[0]), int(np.argmax(losses))
    top, late = float(losses[peak]), float(np.median(losses[len(losses) // 2 :]))
    if top < _PEAK_LOSS * first or late < _LATE_LOSS * first:
        return None
    row = int(np.argmax(usable.total_after[:peak]))
    step, total = int(usable.steps[row]), float(usable.total_after[row])
    return Finding(
        "overshoot",
        "warning",
        f"The loss rose from {first:.3g} to {top:.3g} and stays at "
        f"{late:.3g}. The largest step before, step {step}, had a total of "
        f"{total:.3g} after clipping.",
        "Clip by norm or lower the learning rate, so that no step leaps so far.",
        step,
        numbers={
            "first_loss": first,
            "peak_loss": top,
            "late_loss": late,
            "total_after": total,
        },
    )


def negative_loss(recording: Recording) -> Finding | None:
    """Find a loss below zero, which most losses cannot have."""
    records = recording.records
    negative = records.loss < 0
    if not negative.any():
        return None
    step = int(records.steps[np.argmax(negative)])
    return Finding(
        "negative-loss",
        "note",
        f"The loss is below zero on {share(negative)}, first at step {step}.",
        "Right for a log density or a reward; a cross-entropy or a squared error "
        "has targets it was not made for.",
        step,
    )


def _runs_away(totals: Doubles) -> Flags:
    """Return where a total is the third rise running and ten times all before them."""
    found = np.zeros(len(totals), bool)
    if len(totals) <= _RISING:
        return found
    ends = totals[_RISING:]
    with np.errstate(invalid="ignore"):
        rises = np.diff(totals) > 0
        rising = rises[2:] & rises[1:-1] & rises[:-2]
        before = np.maximum.accumulate(totals)[:-_RISING]
        found[_RISING:] = rising & np.isfinite(ends) & (ends >= _GROWTH * before)
    return found


def _fastest(records: Records, since: int, row: int) -> str:
    with np.errstate(divide="ignore", invalid="ignore"):
        growth = records.before[row].astype(float) / records.before[since]
    return records.names[int(np.argmax(np.nan_to_num(growth, nan=0.0)))]
