"""Which of the recorded steps a rule may look at, and what is usual over them."""

import numpy as np
from numpy.typing import NDArray

from gradguard.records.outliers import Outlier, outliers
from gradguard.records.records import Flags, Floats, Records

# Steps that a median over steps is taken from: enough for two digits, and few enough
# for 20,000 parameters.
_SAMPLE = 256


def updates(records: Records) -> Records:
    """Return the steps that reached the weights.

    Without those that a gradient scaler skipped while it looked for its scale, and
    without those that gradguard refused: whatever they held, they did no harm.
    """
    return only(records, ~(records.skipped | records.refused))


def finite_updates(records: Records) -> Records:
    """Return the updates before the first non-finite gradient."""
    applied = updates(records)
    bad = np.flatnonzero(applied.nonfinite)
    return applied[: bad[0]] if len(bad) else applied


def spikes(records: Records) -> list[Outlier]:
    """Return the steps whose total is far above the usual one before them, and came back.

    Without those that ended in an update that was not finite: that was no spike.
    """
    lost = {*np.flatnonzero(records.nonfinite & ~records.refused).tolist()}
    found: list[Outlier] = []
    for one in reversed(outliers(records.total_before)):
        if one.row + 1 in lost:
            lost.add(one.row)
        else:
            found.append(one)
    return found[::-1]


def only(records: Records, rows: Flags) -> Records:
    """Return some of the steps; if it is all of them, without a copy."""
    return records if rows.all() else records[rows]


def sample(records: Records) -> Records:
    """Return at most 256 of the steps, evenly spaced."""
    count = len(records.steps)
    if count <= _SAMPLE:
        return records
    return records[np.linspace(0, count - 1, _SAMPLE).astype(np.intp)]


def usual(values: NDArray[np.floating]) -> Floats:
    """Return each column's median `[P]` of `[S, P]`; NaN where there is no value."""
    medians = np.median(values, axis=0)
    gaps = np.isnan(medians) & ~np.isnan(values).all(axis=0)
    # nanmedian takes a hundred times as long, so it gets the few that have gaps.
    medians[gaps] = np.nanmedian(values[:, gaps], axis=0)
    return np.asarray(medians, np.float32)
