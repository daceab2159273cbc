"""A recording in, what its pictures show out: lines and marks, few enough to draw."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gradguard.palette import BLUE, COLORS, VERMILLION
from gradguard.records.bins import bin_starts, first_true, largest
from gradguard.records.recording import Epochs, Recording
from gradguard.records.records import Flags, Records
from gradguard.records.statistics import BY_EPOCH
from gradguard.report.facts import parameter_facts
from gradguard.report.runs import Run
from gradguard.report.view import View
from gradguard.report.words import short_labels

Style = Literal["before", "after", "dashed", "threshold", "nonfinite", "zero", "epoch"]

Span = tuple[float, float]
"""log10 of where a vertical axis starts and ends; None stands for a linear axis."""

INK = ""  # the colour of the text, whatever the theme

# A loss that spans more is drawn by its logarithm.
_LINEAR = 30.0

_MOST_PARAMETERS = 4

# Vermillion stands for what is not finite, is zero, or was before.
_LINES = tuple(color for color in COLORS if color != VERMILLION)


class Line(NamedTuple):
    """Points of one name: a line, or marks.

    Attributes:
        name: What it shows, for the legend.
        style: How it is drawn; a line before has no entry of its own in the legend, it
            is that of the line after, dotted.
        x: Places.
        y: Heights; NaN where the line is interrupted.
        color: Of the line.
    """

    name: str
    style: Style
    x: Sequence[float]
    y: Sequence[float]
    color: str = INK


class Panel(NamedTuple):
    """One picture of one run.

    Attributes:
        key: What it shows; the same in every run.
        title: What is seen, and of which run.
        x_label: Of the horizontal axis.
        y_label: Of the vertical axis.
        log: Whether the vertical axis is logarithmic.
        lines: What is drawn, the last on top.
        ticks: Names of the places 0, 1, ... on the horizontal axis, if it is no number.
    """

    key: str
    title: str
    x_label: str
    y_label: str
    log: bool
    lines: list[Line]
    ticks: tuple[str, ...] = ()


def panels(runs: list[Run], view: View) -> list[list[Panel]]:
    """Return the pictures of each run: loss and norms by step, by depth and by epoch.

    Runs of one model show the same parameters in the same colours.
    """
    models: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        models.setdefault(run.recording.records.names, []).append(run)
    shown = {
        names: view.names(names) if view.pattern else _worst(alike)
        for names, alike in models.items()
    }
    return [_of_run(run, view, shown[run.recording.records.names]) for run in runs]


def span_of(row: list[Panel]) -> Span | None:
    """Return the span of the heights in all these pictures."""
    lines = [line for panel in row if panel.log for line in panel.lines]
    heights = [y for line in lines for y in line.y if 0 < y < np.inf]
    if not heights:
        return None
    low, high = float(np.log10(min(heights))), float(np.log10(max(heights)))
    margin = 0.02 + 0.05 * (high - low)
    return low - margin, high + margin


def _of_run(run: Run, view: View, worst: list[str]) -> list[Panel]:
    recording = view.rows(run.recording)
    names = view.names(recording.records.names)
    pictures = [
        *_loss(run, recording, view.points),
        _by_step(run, recording, worst, view.points),
        _by_depth(run, view),
    ]
    if recording.epochs is not None:
        pictures += _by_epoch(run, recording.epochs, names)
    return pictures


def _worst(runs: list[Run]) -> list[str]:
    """Return the parameters most concerned, the worst of each run first."""
    ranked = zip(*map(_ranked, runs), strict=True)
    return list(dict.fromkeys(name for names in ranked for name in names))[
        :_MOST_PARAMETERS
    ]


def _ranked(run: Run) -> list[str]:
    """Return all parameters: those of findings, then those with the highest peaks."""
    records = run.recording.records
    finite = np.where(np.isfinite(records.before), records.before, 0)
    peaks = np.argsort(-finite.max(axis=0), kind="stable")
    found = [one.parameter for one in run.findings if one.parameter in records.names]
    return list(dict.fromkeys([*found, *(records.names[column] for column in peaks)]))


def _loss(run: Run, recording: Recording, points: int) -> list[Panel]:
    """Return the picture of the loss by step, if it is known."""
    losses = recording.records.loss
    finite = losses[np.isfinite(losses)]
    if not len(finite):
        return []
    log = bool(finite.min() > 0 and finite.max() > _LINEAR * finite.min())
    lines = [Line("loss", "after", *_thinned(recording.records.steps, losses, points))]
    lost = np.logical_or.accumulate(~np.isnan(losses)) & ~np.isfinite(losses)
    lines += _marked(recording.records, lost, lines, points, above=3 if log else 1.1)
    title = f"{run.label}: loss by step"
    return [Panel("loss", title, "optimizer step", "loss", log, lines)]


def overlays(runs: list[Run], view: View) -> list[Panel]:
    """Return the loss and the total before clipping, a line for each run."""
    panels = []
    for key, label in (("loss", "loss"), ("total_before", "total before clipping")):
        lines = []
        labels = short_labels(runs)
        for number, run in enumerate(runs):
            records = view.rows(run.recording).records
            values = getattr(records, key)
            style: Style = "after" if number < len(COLORS) else "dashed"
            color = COLORS[number % len(COLORS)]
            across, up = _thinned(records.steps, values, view.points)
            lines.append(Line(labels[run], style, across, up, color))
        heights = [y for line in lines for y in line.y if np.isfinite(y)]
        if heights:
            log = key != "loss" or min(heights) > 0
            title = f"{len(runs)} runs: {label} by step"
            panels.append(Panel(key, title, "optimizer step", label, log, lines))
    return panels


def _by_step(run: Run, recording: Recording, names: list[str], points: int) -> Panel:
    records = recording.records
    steps = records.steps
    totals = (records.total_before, records.total_after)
    lines = _pair("total", steps, *totals, INK, points)
    for number, name in enumerate(names):
        column = records.names.index(name)
        before, after = records.before[:, column], records.after[:, column]
        color = _LINES[number % len(_LINES)]
        lines += _pair(name, steps, before, after, color, points)
    floor = _floor(lines)
    cut = any(y < floor for line in lines for y in line.y)
    lines = [line._replace(y=np.maximum(line.y, floor).tolist()) for line in lines]
    lines += [
        *_thresholds(recording),
        *_marked(records, records.nonfinite, lines, points),
    ]
    title = f"{run.label}: gradient norms by step"
    x_label = "optimizer step" + " (at the bottom: so much or less)" * cut
    y_label = "L2 norm before (dotted), after"
    return Panel("steps", title, x_label, y_label, True, lines)


def _floor(lines: list[Line]) -> float:
    """Return what is drawn in place of anything less: a logarithm has no room for 0.

    Each line keeps all but its lowest twentieth above it, of what is not 0.
    """
    lows = []
    for line in lines:
        positive = [y for y in line.y if y > 0]
        if positive:
            lows.append(np.quantile(positive, 0.05))
    return float(min(lows, default=1.0)) / 3


def _pair(
    name: str,
    steps: NDArray[np.int64],
    before: NDArray[np.floating],
    after: NDArray[np.floating],
    color: str,
    points: int,
) -> list[Line]:
    return [
        Line(name, "before", *_thinned(steps, before, points), color),
        Line(name, "after", *_thinned(steps, after, points), color),
    ]


def _thinned(
    steps: NDArray[np.int64], norms: NDArray[np.floating], points: int
) -> tuple[list[float], list[float]]:
    """Return each bin's first step and its largest finite norm; NaN if there is none."""
    starts = bin_starts(len(steps), points)
    return steps[starts].tolist(), largest(norms, points).tolist()


def _thresholds(recording: Recording) -> Iterator[Line]:
    """Yield a line over the steps at which a known norm was the largest let through."""
    clips = [in_force.clip for in_force in recording.clips]
    total = [clip.max_norm_of_total for clip in clips]
    each = [clip.max_norm_of_each for clip in clips]
    yield from _threshold("max_norm", recording, total)
    yield from _threshold("max_norm, each parameter", recording, each)


def _threshold(
    name: str, recording: Recording, max_norms: list[float | None]
) -> Iterator[Line]:
    steps = recording.records.steps
    starts = [in_force.step for in_force in recording.clips]
    stops = [*starts[1:], int(steps[-1]) + 1]
    x: list[float] = []
    y: list[float] = []
    for max_norm, start, stop in zip(max_norms, starts, stops, strict=True):
        first, last = max(start, int(steps[0])), min(stop - 1, int(steps[-1]))
        if max_norm is not None and first <= last:
            x += [first, last, np.nan]
            y += [max_norm, max_norm, np.nan]
    if x:
        yield Line(name, "threshold", x[:-1], y[:-1], "#888888")


def _marked(
    records: Records, bad: Flags, lines: list[Line], points: int, *, above: float = 3
) -> list[Line]:
    """Return marks above all lines at the steps where something is not finite."""
    x = records.steps[first_true(bad, points)].tolist()
    if not x:
        return []
    top = max((y for line in lines for y in line.y if np.isfinite(y)), default=1.0)
    return [Line("non-finite", "nonfinite", x, [above * top] * len(x), VERMILLION)]


def _by_depth(run: Run, view: View) -> Panel:
    rows = parameter_facts(run.recording, view)
    places = list(range(len(rows)))
    medians = {
        "before": [row.before_50 for row in rows],
        "after": [row.after_50 for row in rows],
    }
    lines = []
    colors: dict[Style, str] = {"before": VERMILLION, "after": BLUE}
    for style, color in colors.items():
        y = [value if value > 0 else np.nan for value in medians[style]]
        lines.append(Line(style, style, places, y, color))
    positive = [y for line in lines for y in line.y if y > 0] or [1.0]
    zeros = [place for place in places if medians["before"][place] == 0]
    if zeros:
        floor = [min(positive) / 3] * len(zeros)
        lines.append(Line("exactly 0", "zero", zeros, floor, VERMILLION))
    title = f"{run.label}: gradient norms by depth"
    ticks = tuple(row.name for row in rows)
    return Panel("depth", title, "", "median L2 norm over steps", True, lines, ticks)


def _by_epoch(run: Run, epochs: Epochs, names: list[str]) -> list[Panel]:
    columns = [
        (place, name) for place, name in enumerate(epochs.names) if name in names
    ]
    pictures = []
    for statistic, (label, log) in BY_EPOCH.items():
        values = epochs[statistic].astype(np.float64)
        drawn = np.isfinite(values) & ((values > 0) | (not log))
        values = np.where(drawn, values, np.nan)
        lines = [
            Line(
                name, "epoch", epochs.epochs.tolist(), values[:, place].tolist(), color
            )
            for (place, name), color in zip(columns, _shades(len(columns)), strict=True)
        ]
        title = f"{run.label}: {label}, by epoch"
        pictures.append(Panel(statistic, title, "epoch", label, log, lines))
    return pictures


def _shades(count: int) -> list[str]:
    """Return colours from the first layer to the last: violet to green, seen on light and dark."""
    low, high = np.array([110, 84, 200]), np.array([53, 183, 121])
    mixed = [low + (high - low) * share for share in np.linspace(0, 1, count)]
    return ["#" + "".join(f"{round(part):02x}" for part in color) for color in mixed]
