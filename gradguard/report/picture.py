"""Panels in, a file out: PNG, SVG or PDF, drawn by matplotlib without a display."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gradguard.errors import ConfigError
from gradguard.report.panels import (
    INK,
    Line,
    Panel,
    Span,
    abreast,
    panels,
    spanned,
)
from gradguard.report.runs import Run
from gradguard.report.view import View

# Wider pictures have more pixels than renderers take.
_MOST_RUNS = 12
_MANY = 200  # points of a line, which is drawn thinner then
_MOST_NAMES = 24  # on one axis, or in one legend

_STYLES: dict[str, dict[str, Any]] = {
    "before": {"linestyle": (0, (1, 1)), "alpha": 0.7, "linewidth": 1.5},
    "after": {"linestyle": "-", "linewidth": 1.4},
    "threshold": {"linestyle": "--", "linewidth": 1.2},
    "nonfinite": {"linestyle": "none", "marker": "x", "markersize": 5},
    "zero": {"linestyle": "none", "marker": "v", "markersize": 5},
    "epoch": {"linestyle": "-", "linewidth": 1.4, "marker": ".", "markersize": 4},
}
_PLACES = {
    "before": {"marker": "o", "markersize": 7, "markerfacecolor": "none"},
    "after": {"marker": "o", "markersize": 4},
}


def draw(runs: list[Run], file: Path, *, view: View) -> None:
    """Write the pictures of the runs, a column each.

    Raises:
        ConfigError: If there are more runs than fit.
    """
    if len(runs) > _MOST_RUNS:
        raise ConfigError(
            f"--figure draws {_MOST_RUNS} runs side by side at most, got {len(runs)}"
        )
    rows = abreast(panels(runs, view))
    figure = Figure(figsize=(7.6 * len(runs), 3.6 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(runs), squeeze=False)
    for places, row in zip(grid, rows, strict=True):
        for axes, (panel, span) in zip(places, spanned(row), strict=True):
            if panel is None:
                axes.axis("off")
            else:
                _draw(axes, panel, span)
    figure.savefig(file, dpi=120)


def _draw(axes: Axes, panel: Panel, span: Span | None) -> None:
    for line in panel.lines:
        _plot(axes, line, by_place=bool(panel.ticks))
    axes.set_title(_literal(panel.title), fontsize="medium", loc="left")
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    if span is not None:
        axes.set_yscale("log")
        axes.set_ylim(10 ** span[0], 10 ** span[1])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=True, color="0.9", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if panel.ticks:
        _name_places(axes, panel.ticks)
    if len(panel.lines) <= _MOST_NAMES:
        axes.legend(
            loc="upper left", bbox_to_anchor=(1, 1), fontsize="small", frameon=False
        )


def _plot(axes: Axes, line: Line, *, by_place: bool) -> None:
    style = _STYLES[line.style] | (_PLACES.get(line.style, {}) if by_place else {})
    if len(line.x) > _MANY:
        style = style | {"linewidth": 0.8}
    color = "0.15" if line.color == INK else line.color
    named = by_place or line.style != "before"
    label = _literal(line.name) if named else None
    axes.plot(line.x, line.y, label=label, color=color, **style)


def _name_places(axes: Axes, names: tuple[str, ...]) -> None:
    every = -(-len(names) // _MOST_NAMES)
    places = np.arange(0, len(names), every)
    axes.set_xticks(places, [_literal(names[place]) for place in places])
    axes.tick_params(axis="x", rotation=90, labelsize="small")


def _literal(text: str) -> str:
    """Return the text as it is: a dollar would start a formula, "_" hide the line."""
    shown = text.encode(
        errors="backslashreplace"
    ).decode()  # a name on disk may be no text
    return " " * shown.startswith("_") + shown.replace("$", r"\$")
