"""Records in, the points of the page's line charts out, few enough to draw."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradguard.records.recording import ClipInForce, Epochs
from gradguard.records.records import MISSING, Records
from gradguard.tensorboard.page.heat import bin_starts
from gradguard.tensorboard.page.highlights import highlights, worst
from gradguard.tensorboard.page.library import Run

# Bins over which the share of clipped steps is taken: enough to see it change, few
# enough to be shares of something.
_FRACTION_BINS = 50


def summary(run: Run) -> dict[str, Any]:
    """Return what the page needs to know before it draws anything."""
    records = run.records
    peaks, times = worst(run)
    return {
        "names": list(records.names),
        "start": int(records.steps[0]),
        "stop": int(records.steps[-1]),
        "recorded": len(records.steps),
        "writes": run.writes,
        "writes_read": run.writes_read,
        "clips": [clip(in_force) for in_force in run.recording.clips],
        "clip_fraction": records.clip_fraction,
        "nonfinite_steps": int(records.nonfinite.sum()),
        "worst": times,
        "worst_step": records.steps[peaks].tolist(),
        "epochs": len(run.epochs.epochs) if run.epochs else 0,
        "highlights": [found._asdict() for found in highlights(run)],
    }


def clip(in_force: ClipInForce) -> dict[str, Any]:
    """Return what clips from a step on: in words, and the norm it lets through."""
    return {
        "step": in_force.step,
        "text": in_force.text,
        "threshold": in_force.max_norm,
        "per_parameter": in_force.per_parameter,
    }


def totals(run: Run, rows: slice, *, bins: int) -> dict[str, Any]:
    """Return the norms over all parameters; of each bin, what departs furthest."""
    records = run.records
    coefficient = records.coefficient[rows]
    return {
        **_axis(records, rows, bins),
        "before": _largest(records.total_before[rows], bins),
        "after": _largest(records.total_after[rows], bins),
        "coefficient": _reduced(np.fmin, coefficient, bins),
        "nonfinite": records.steps[rows][_any(records.nonfinite[rows], bins)].tolist(),
        "fraction_steps": records.steps[rows][
            bin_starts(len(coefficient), _FRACTION_BINS)
        ].tolist(),
        "fraction": _shares(records.clipped[rows]),
    }


def of_parameter(run: Run, rows: slice, column: int, *, bins: int) -> dict[str, Any]:
    """Return one parameter's norms, of each bin the largest; and what each clip let through."""
    records = run.records
    before, after = records.before[rows, column], records.after[rows, column]
    bad = ~np.isfinite(before) & ~records.missing[rows, column]
    clipped = after < before * np.float32(1 - 1e-6)
    return {
        **_axis(records, rows, bins),
        "before": _largest(before, bins),
        "after": _largest(after, bins),
        "nonfinite": records.steps[rows][_any(bad, bins)].tolist(),
        "clipped": np.logical_or.reduceat(
            clipped, bin_starts(len(clipped), bins)
        ).tolist(),
        "thresholds": [
            in_force.clip.max_norm_of(records.names[column])
            for in_force in run.recording.clips
        ],
    }


def profile(run: Run, row: int) -> dict[str, Any]:
    """Return every parameter's norms at one step; -1 where it has no gradient."""
    records = run.records
    missing = records.missing[row]
    return {
        "step": int(records.steps[row]),
        "before": np.where(missing, MISSING, records.before[row]).tolist(),
        "after": np.where(missing, MISSING, records.after[row]).tolist(),
    }


def by_epoch(epochs: Epochs, names: Sequence[str], statistic: str) -> dict[str, Any]:
    """Return a statistic of some parameters, one list each; NaN for what is no number."""
    columns = {name: column for column, name in enumerate(epochs.names)}
    values = np.where(np.isfinite(epochs[statistic]), epochs[statistic], np.nan).T
    unknown = [np.nan] * len(epochs.epochs)
    return {
        "epochs": epochs.epochs.tolist(),
        "names": list(names),
        "values": [
            values[columns[name]].tolist() if name in columns else unknown
            for name in names
        ],
    }


def _axis(records: Records, rows: slice, bins: int) -> dict[str, Any]:
    """Return the first step of each bin, and how many recorded steps a bin holds."""
    steps = records.steps[rows]
    starts = bin_starts(len(steps), bins)
    return {"steps": steps[starts].tolist(), "per_point": -(-len(steps) // bins)}


def _largest(values: NDArray[np.floating], bins: int) -> list[float]:
    """Return each bin's largest finite value; NaN if there is none."""
    return _reduced(np.fmax, np.where(np.isfinite(values), values, np.nan), bins)


def _reduced(reduce: np.ufunc, values: NDArray[np.floating], bins: int) -> list[float]:
    reduced: list[float] = reduce.reduceat(
        values, bin_starts(len(values), bins)
    ).tolist()
    return reduced


def _any(flags: NDArray[np.bool_], bins: int) -> NDArray[np.intp]:
    """Return the first true position of each bin that has one."""
    true = np.flatnonzero(flags)
    width = -(-len(flags) // bins)
    _, first = np.unique(true // width, return_index=True)
    return true[first]


def _shares(flags: NDArray[np.bool_]) -> list[float]:
    starts = bin_starts(len(flags), _FRACTION_BINS)
    counts = np.diff(np.append(starts, len(flags)))
    shares: list[float] = (np.add.reduceat(flags.astype(int), starts) / counts).tolist()
    return shares
