"""Norms in, the cells of a heatmap out: no spike is lost, however many share a cell."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gradguard.records.bins import bin_starts
from gradguard.records.records import MISSING, Doubles, Floats
from gradguard.tensorboard.page.library import LoadedRun

Cells = NDArray[np.int16]
Moment = Literal["before", "after", "removed"]
Scale = Literal["relative", "absolute"]

# A cell holds log10 of a norm in these units, at most +-64 decades, or one of the marks.
PER_DECADE = 500
MISSING_CELL, ZERO_CELL, INF_CELL, NAN_CELL = -32768, -32767, 32766, 32767


def measured(
    run: LoadedRun, rows: slice, columns: Sequence[int], moment: Moment
) -> Floats:
    """Return the norms to look at, `[S, P]`; -1 where there is no gradient.

    Args:
        run: Whose.
        rows: Which of its recorded steps.
        columns: Which of its parameters.
        moment: Before or after clipping, or how many times smaller clipping made them.
    """
    records = run.records
    before, after = records.before[rows, columns], records.after[rows, columns]
    missing = records.missing[rows, columns]
    if moment != "before":
        # What a gradient scaler skipped was never applied.
        missing |= records.skipped[rows, None]
    norms = {"before": before, "after": after}.get(moment)
    if norms is None:
        norms = _removed(before, after)
    # Less than any norm, so that it never is the largest.
    return np.where(missing, np.float32(MISSING), norms)


def heat(
    run: LoadedRun,
    rows: slice,
    groups: Sequence[Sequence[int]],
    *,
    moment: Moment,
    scale: Scale,
    bins: int,
) -> Cells:
    """Return the largest norm of each group of parameters in each bin of steps.

    Args:
        run: Whose.
        rows: Which of its recorded steps.
        groups: Parameters that share a row of the heatmap, `[R]` groups, none empty.
        moment: See `measured`.
        scale: Divide by each parameter's median first, or not.
        bins: Largest number of bins.

    Returns:
        `[R, B]`, `B` at most `bins`; NaN and Inf are larger than any norm.
    """
    columns = [column for group in groups for column in group]
    norms = measured(run, rows, columns, moment)
    # fmax would hide a NaN behind any number.
    largest = np.maximum.reduceat(norms, bin_starts(len(norms), bins)).astype(
        np.float64
    )
    if scale == "relative":
        largest /= scales(run, columns, moment)
    starts = np.cumsum([0, *map(len, groups[:-1])])
    return encode(np.maximum.reduceat(largest, starts, axis=1).T)


def peak(
    run: LoadedRun, rows: slice, columns: Sequence[int], *, moment: Moment, scale: Scale
) -> tuple[int, int]:
    """Return where the largest norm is, as its row and column in the run's records."""
    norms = measured(run, rows, columns, moment).astype(np.float64)
    if scale == "relative":
        norms /= scales(run, columns, moment)
    norms[np.isnan(norms)] = np.inf
    step, column = np.unravel_index(np.argmax(norms), norms.shape)
    return int(step) + rows.start, columns[int(column)]


def cell(run: LoadedRun, row: int, column: int) -> dict[str, Any]:
    """Return everything that is known of one parameter's gradient at one step."""
    records = run.records
    missing = bool(records.missing[row, column])
    before, after = (
        float(records.before[row, column]),
        float(records.after[row, column]),
    )
    return {
        "step": int(records.steps[row]),
        "parameter": records.names[column],
        "before": MISSING if missing else before,
        "after": MISSING if missing else after,
        "times": before / float(run.median_before[column]),
        "clipped": bool(records.clipped_gradients[row, column]),
        "skipped": bool(records.skipped[row] | records.refused[row]),
    }


def scales(run: LoadedRun, columns: Sequence[int], moment: Moment) -> Doubles:
    """Return what "relative" divides each parameter's norms by, `[P]`."""
    if moment == "removed":  # already a ratio
        return np.ones(len(columns))
    return (run.median_before if moment == "before" else run.median_after)[columns]


def encode(norms: Doubles) -> Cells:
    """Return log10 of each norm, rounded to 1/500, as 16-bit cells."""
    with np.errstate(divide="ignore", invalid="ignore"):
        decades = np.nan_to_num(np.log10(norms), posinf=0.0, neginf=0.0)
    cells: Cells = np.rint(decades * PER_DECADE).astype(np.int16)
    cells[norms < 0] = MISSING_CELL
    cells[norms == 0] = ZERO_CELL
    cells[np.isposinf(norms)] = INF_CELL
    cells[np.isnan(norms)] = NAN_CELL
    return cells


def _removed(before: Floats, after: Floats) -> Floats:
    """Return before / after: 1 where nothing changed, NaN where before is not finite."""
    largest = np.finfo(np.float32).max
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = np.where(before == after, np.float32(1), before / after)
    ratio[np.isposinf(ratio)] = largest  # clipped to nothing, which is no overflow
    ratio[~np.isfinite(before)] = np.nan
    return np.asarray(ratio, np.float32)
