"""Records in, the points of the page's line charts out, few enough to draw."""

from collections.abc import Callable
from typing import Any

import numpy as np
from tensorboard.errors import NotFoundError

from gradguard.records.bins import (
    bin_starts,
    bin_width,
    first_true,
    largest,
    shares,
    smallest,
)
from gradguard.records.recording import STATISTICS, ClipInForce
from gradguard.records.records import MISSING, Records
from gradguard.tensorboard.page import query
from gradguard.tensorboard.page.heat import cell
from gradguard.tensorboard.page.library import LoadedRun
from gradguard.tensorboard.page.query import Arguments
from gradguard.tensorboard.page.ranking import worst_first
from gradguard.tensorboard.page.verdict import verdict

Chart = Callable[[LoadedRun, Arguments], dict[str, Any]]
"""The numbers of a chart, as the arguments of a request ask for them."""

# Bins over which the share of clipped steps is taken: enough to see it change, few
# enough to be shares of something.
_FRACTION_BINS = 50


def summary(run: LoadedRun) -> dict[str, Any]:
    """Return what the page needs to know before it draws anything."""
    records = run.records
    return {
        "names": list(records.names),
        "start": int(records.steps[0]),
        "stop": int(records.steps[-1]),
        "recorded": len(records.steps),
        "writes": run.writes,
        "writes_read": run.writes_read,
        "left_out": run.recording.left_out,
        "clips": [clip(in_force) for in_force in run.recording.clips],
        "clip_fraction": records.clip_fraction,
        "nonfinite_steps": int(records.nonfinite.sum()),
        "worst": worst_first(run),
        "epochs": len(run.epochs.epochs) if run.epochs else 0,
        "has_loss": bool(np.isfinite(records.loss).any()),
        "first_nonfinite": first_nonfinite(records),
        "largest": largest_total(records),
        "verdict": verdict(run.recording),
    }


def first_nonfinite(records: Records) -> int | None:
    """Return the first step with a NaN or an Inf in a gradient; None if none has."""
    bad = np.flatnonzero(records.nonfinite)
    return int(records.steps[bad[0]]) if len(bad) else None


def largest_total(records: Records) -> dict[str, Any]:
    """Return the largest finite total before clipping: its step, and whose it mostly is."""
    row = int(np.argmax(np.nan_to_num(records.total_before, nan=0, posinf=0)))
    column = int(np.argmax(np.nan_to_num(records.before[row])))
    return {
        "total_before": float(records.total_before[row]),
        "step": int(records.steps[row]),
        "parameter": records.names[column],
    }


def clip(in_force: ClipInForce) -> dict[str, Any]:
    """Return what clips from a step on: in words, and the norm it lets through."""
    return {
        "step": in_force.step,
        "text": in_force.text,
        "threshold": in_force.max_norm,
        "per_parameter": in_force.per_parameter,
    }


def totals(run: LoadedRun, arguments: Arguments) -> dict[str, Any]:
    """Return the norms over all parameters; of each bin, what departs furthest."""
    records = run.records
    rows, bins = query.window(arguments, records), query.bins(arguments)
    steps = records.steps[rows]
    return {
        **_axis(records, rows, bins),
        "loss": largest(records.loss[rows], bins).tolist(),
        "before": largest(records.total_before[rows], bins).tolist(),
        "after": largest(records.total_after[rows], bins).tolist(),
        "coefficient": smallest(records.coefficient[rows], bins).tolist(),
        "nonfinite": steps[first_true(records.nonfinite[rows], bins)].tolist(),
        "fraction_steps": steps[bin_starts(len(steps), _FRACTION_BINS)].tolist(),
        "fraction": shares(records.clipped[rows], _FRACTION_BINS).tolist(),
    }


def events(run: LoadedRun, arguments: Arguments) -> dict[str, Any]:
    """Return whether some step of each bin was clipped, skipped, or not finite."""
    records = run.records
    rows, bins = query.window(arguments, records), query.bins(arguments)
    kinds = {
        "clipped": records.clipped,
        "skipped": records.skipped | records.refused,
        "nonfinite": records.nonfinite,
    }
    some = {kind: shares(flags[rows], bins) > 0 for kind, flags in kinds.items()}
    return {
        **_axis(records, rows, bins),
        **{kind: flags.tolist() for kind, flags in some.items()},
    }


def of_parameter(run: LoadedRun, arguments: Arguments) -> dict[str, Any]:
    """Return one parameter's norms, of each bin the largest; and what each clip let through."""
    records = run.records
    rows, bins = query.window(arguments, records), query.bins(arguments)
    column = query.parameter(arguments, records)
    clipped = records.clipped_gradients[rows, column]
    nonfinite = first_true(records.nonfinite_gradients[rows, column], bins)
    return {
        **_axis(records, rows, bins),
        "before": largest(records.before[rows, column], bins).tolist(),
        "after": largest(records.after[rows, column], bins).tolist(),
        "nonfinite": records.steps[rows][nonfinite].tolist(),
        "clipped": (shares(clipped, bins) > 0).tolist(),
        "thresholds": [
            in_force.clip.max_norm_of(records.names[column])
            for in_force in run.recording.clips
        ],
    }


def profile(run: LoadedRun, arguments: Arguments) -> dict[str, Any]:
    """Return every parameter's norms at one step; -1 where it has no gradient."""
    records = run.records
    row = query.nearest(arguments, records)
    missing = records.missing[row]
    return {
        "step": int(records.steps[row]),
        "before": np.where(missing, MISSING, records.before[row]).tolist(),
        "after": np.where(missing, MISSING, records.after[row]).tolist(),
    }


def one_cell(run: LoadedRun, arguments: Arguments) -> dict[str, Any]:
    """Return everything that is known of one parameter's gradient at one step."""
    row = query.nearest(arguments, run.records)
    return cell(run, row, query.parameter(arguments, run.records))


def by_epoch(run: LoadedRun, arguments: Arguments) -> dict[str, Any]:
    """Return a statistic of some parameters, one list each; NaN for what is no number.

    Raises:
        NotFoundError: If the run has no statistics by epoch.
    """
    epochs = run.epochs
    if epochs is None:
        raise NotFoundError("the run has no statistics by epoch.")
    groups = query.groups(arguments, run.records)
    names = [run.records.names[column] for group in groups for column in group]
    statistic = query.choice(arguments, "statistic", STATISTICS)
    columns = {name: column for column, name in enumerate(epochs.names)}
    values = np.where(np.isfinite(epochs[statistic]), epochs[statistic], np.nan).T
    unknown = [np.nan] * len(epochs.epochs)
    return {
        "epochs": epochs.epochs.tolist(),
        "names": names,
        "values": [
            values[columns[name]].tolist() if name in columns else unknown
            for name in names
        ],
    }


CHARTS: dict[str, Chart] = {
    "totals": totals,
    "events": events,
    "parameter": of_parameter,
    "profile": profile,
    "cell": one_cell,
    "epochs": by_epoch,
}


def _axis(records: Records, rows: slice, bins: int) -> dict[str, Any]:
    """Return the first step of each bin, and how many recorded steps a bin holds."""
    steps = records.steps[rows]
    starts = bin_starts(len(steps), bins)
    return {"steps": steps[starts].tolist(), "per_point": bin_width(len(steps), bins)}
