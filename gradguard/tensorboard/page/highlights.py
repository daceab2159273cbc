"""A run in, what is worth a look out, in words."""

from typing import Literal, NamedTuple

import numpy as np

from gradguard.health.diagnosis import diagnose
from gradguard.health.finding import Severity
from gradguard.records.records import Records
from gradguard.tensorboard.page.library import LoadedRun

# A parameter this many times above its own median is worth a look.
_SPIKE = 10.0


class Highlight(NamedTuple):
    """One thing worth a look.

    Attributes:
        step: Optimizer steps completed before it; None if it is nowhere special.
        parameter: Name of the recorded parameter most concerned; None if none is.
        text: What is the matter, a sentence or two.
        severity: "error", "warning" or "note" of a finding; "" of a large norm.
        advice: What to try; "" of a large norm.
        command: A line to copy that runs the step again, or would save one; "" for none.
    """

    step: int | None
    parameter: str | None
    text: str
    severity: Severity | Literal[""] = ""
    advice: str = ""
    command: str = ""


def highlights(run: LoadedRun, *, most: int = 3) -> list[Highlight]:
    """Return what is the matter, worst first, the largest totals, the largest spikes.

    Args:
        run: Whose.
        most: Largest number of totals, and of spikes.
    """
    return [
        *_findings(run),
        *_largest_totals(run.records, most),
        *_largest_spikes(run, most),
    ]


def worst(run: LoadedRun) -> tuple[list[int], list[float]]:
    """Return where each parameter peaked and how many times above its median, `[P]`.

    A gradient that was ever NaN or Inf peaks infinitely high, the first time it was.
    """
    records = run.records
    height = np.where(np.isnan(records.before), 0, records.before)
    height[records.nonfinite_gradients] = np.inf
    rows = np.argmax(height, axis=0)
    heights = height[rows, np.arange(len(records.names))].astype(np.float64)
    return rows.tolist(), (heights / run.median_before).tolist()


def _findings(run: LoadedRun) -> list[Highlight]:
    names = set(run.records.names)
    return [
        Highlight(
            found.step,
            found.parameter if found.parameter in names else None,
            found.text,
            found.severity,
            found.advice,
            found.command,
        )
        for found in diagnose(run.recording)
    ]


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


def _largest_spikes(run: LoadedRun, most: int) -> list[Highlight]:
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
