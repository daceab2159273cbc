"""Records in, the steps worth a look out, in words."""

from typing import NamedTuple

import numpy as np

from gradguard.record import Records
from gradguard.tensorboard.series import Run

# A parameter this many times above its own median is worth a look.
_SPIKE = 10.0


class Highlight(NamedTuple):
    """One step worth a look.

    Attributes:
        step: Optimizer steps completed before it.
        parameter: Name of the parameter most concerned.
        text: What is the matter, a sentence.
    """

    step: int
    parameter: str
    text: str


def highlights(run: Run, *, most: int = 3) -> list[Highlight]:
    """Return the first non-finite step, the largest totals and the largest spikes.

    Args:
        run: Whose.
        most: Largest number of totals, and of spikes.
    """
    return [
        *_first_nonfinite(run.records),
        *_largest_totals(run.records, most),
        *_largest_spikes(run, most),
    ]


def worst(run: Run) -> tuple[list[int], list[float]]:
    """Return where each parameter peaked and how many times above its median, `[P]`.

    A gradient that was ever NaN or Inf peaks infinitely high, the first time it was.
    """
    records = run.records
    bad = ~np.isfinite(records.before) & ~records.missing
    height = np.where(np.isnan(records.before), 0, records.before)
    height[bad] = np.inf
    rows = np.argmax(height, axis=0)
    heights = height[rows, np.arange(len(records.names))].astype(np.float64)
    return rows.tolist(), (heights / run.median_before).tolist()


def _first_nonfinite(records: Records) -> list[Highlight]:
    count = int(records.nonfinite.sum())
    if not count:
        return []
    row = int(np.argmax(records.nonfinite))
    bad = np.flatnonzero(~np.isfinite(records.before[row]) & ~records.missing[row])
    name = records.names[bad[0]]
    more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
    text = (
        f"First gradient that is NaN or Inf: {name}{more}. "
        f"It happens on {count} of {len(records.steps)} steps."
    )
    return [Highlight(int(records.steps[row]), name, text)]


def _largest_totals(records: Records, most: int) -> list[Highlight]:
    """Return the largest totals that are no neighbours of each other."""
    totals = np.where(np.isfinite(records.total_before), records.total_before, 0.0)
    positive = totals[totals > 0]
    if not len(positive):
        return []
    apart = max(1, len(totals) // 20)
    found: list[Highlight] = []
    free = totals.copy()
    while len(found) < most and free.max() > 0:
        row = int(np.argmax(free))
        free[max(0, row - apart) : row + apart + 1] = 0
        column = int(np.argmax(np.nan_to_num(records.before[row])))
        times = totals[row] / np.median(positive)
        text = (
            f"Total norm {totals[row]:.3g} before clipping, {times:.3g} x its median."
        )
        found.append(Highlight(int(records.steps[row]), records.names[column], text))
    return found


def _largest_spikes(run: Run, most: int) -> list[Highlight]:
    """Return the parameters that rose highest above their own median."""
    rows, times = worst(run)
    ranked = sorted(range(len(times)), key=lambda column: -times[column])
    names, steps = run.records.names, run.records.steps
    return [
        Highlight(
            int(steps[rows[column]]),
            names[column],
            f"{names[column]} reaches {times[column]:.3g} x its median.",
        )
        for column in ranked
        if _SPIKE < times[column] < np.inf
    ][:most]
