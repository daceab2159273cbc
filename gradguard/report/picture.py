"""Runs in, one slide out: loss, total and heatmap, drawn by matplotlib without a display."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gradguard.errors import ConfigError
from gradguard.health.telling import short_names
from gradguard.report.heatmap import Heatmap, heatmap, narrowed
from gradguard.report.overview import count_of_bad, ranked
from gradguard.report.panels import INK, Line, Panel, Span, overlays, panels, span_of
from gradguard.report.runs import Run
from gradguard.report.view import View
from gradguard.report.words import short_labels

# A slide of 16:9, in inches and pixels an inch: 1600 x 900.
_SIZE, _DPI = (16, 9), 100

# More lines in one picture are told apart by no colour and dash.
_MOST_RUNS = 12

# Heatmaps beside one another; the worst runs have one.
_MOST_HEATMAPS = 4
_MOST_NAMES = 24
_COLORS = (
    "norm before clipping by optimizer step: white as usual, red x 1000, blue x 1/1000, "
    "black not finite"
)
_LONGEST_TITLE = 150
_MANY = 200  # points of a line, which is drawn thinner then

_STYLES: dict[str, dict[str, Any]] = {
    "before": {"linestyle": (0, (1, 1)), "alpha": 0.7, "linewidth": 1.5},
    "after": {"linestyle": "-", "linewidth": 1.4},
    "dashed": {"linestyle": "--", "linewidth": 1.4},
    "threshold": {"linestyle": "--", "linewidth": 1.2},
    "nonfinite": {"linestyle": "none", "marker": "x", "markersize": 5},
}


def draw(runs: list[Run], file: Path, *, view: View) -> None:
    """Write the slide of the runs.

    Raises:
        ConfigError: If there are more runs than fit.
    """
    if len(runs) > _MOST_RUNS:
        raise ConfigError(
            f"--figure draws {_MOST_RUNS} runs at most, got {len(runs)}: name some"
        )
    slide(runs, view=view).savefig(file, dpi=_DPI)


def slide(runs: list[Run], *, view: View) -> Figure:
    """Return loss and total in the upper row, norms as colours in the lower one."""
    runs = ranked(runs)
    figure = Figure(figsize=_SIZE, dpi=_DPI, layout="constrained")
    figure.suptitle(_literal(_title(runs)), fontsize="large", x=0.01, ha="left")
    rows: Any = figure.subfigures(2, 1, height_ratios=(1, 1.3))
    above, below = rows
    pictures = _of_one(runs[0], view) if len(runs) == 1 else overlays(runs, view)
    for axes, panel in zip(_row(above, len(pictures)), pictures, strict=True):
        _draw(axes, panel, span_of([panel]))
    shown = runs[:_MOST_HEATMAPS]
    labels = short_labels(runs)
    below.supxlabel(_COLORS, fontsize="small")
    for axes, run in zip(_row(below, len(shown)), shown, strict=True):
        names = view.names(run.recording.records.names)
        heat = narrowed(heatmap(view.rows(run.recording), run.verdict), names)
        named = len(shown) == 1 or len(heat.names) <= _MOST_NAMES
        _color(axes, heat, named=named)
        axes.set_title(_literal(labels[run]), fontsize="medium", loc="left")
    return figure


def _title(runs: list[Run]) -> str:
    text = runs[0].verdict.text if len(runs) == 1 else count_of_bad(runs)
    text = short_names(text)
    return text if len(text) <= _LONGEST_TITLE else text[:_LONGEST_TITLE] + " ..."


def _of_one(run: Run, view: View) -> list[Panel]:
    [column] = panels([run], view)
    return [
        panel._replace(lines=[line for line in panel.lines if _is_of_all(line)])
        for panel in column
        if panel.key in ("loss", "steps")
    ]


def _is_of_all(line: Line) -> bool:
    """Whether a line is of the run as a whole, and not of one parameter."""
    return line.color == INK or line.style in ("threshold", "nonfinite")


def _row(figure: Any, count: int) -> list[Axes]:
    return list(figure.subplots(1, max(count, 1), squeeze=False)[0][:count])


def _draw(axes: Axes, panel: Panel, span: Span | None) -> None:
    for line in panel.lines:
        _plot(axes, line)
    title = f"{panel.y_label} by {panel.x_label}"
    axes.set_title(_literal(title), fontsize="medium", loc="left")
    if span is not None:
        axes.set_yscale("log")
        axes.set_ylim(10 ** span[0], 10 ** span[1])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=True, color="0.9", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if len(panel.lines) > 1:
        axes.legend(fontsize="small", frameon=False, ncols=2)


def _plot(axes: Axes, line: Line) -> None:
    style = _STYLES[line.style]
    if len(line.x) > _MANY:
        style = style | {"linewidth": 0.9}
    color = "0.15" if line.color == INK else line.color
    label = _literal(line.name + " before" * (line.style == "before"))
    axes.plot(line.x, line.y, label=label, color=color, **style)


def _color(axes: Axes, heat: Heatmap, *, named: bool) -> None:
    extent = (heat.first_step - 0.5, heat.last_step + 0.5, len(heat.names) - 0.5, -0.5)
    axes.imshow(heat.pixels, aspect="auto", interpolation="nearest", extent=extent)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    every = -(-len(heat.names) // _MOST_NAMES)
    places = list(range(0, len(heat.names), every)) if named else []
    labels = [_literal(short_names(heat.names[place])) for place in places]
    axes.set_yticks(places, labels, fontsize="x-small")


def _literal(text: str) -> str:
    """Return the text as it is: a dollar would start a formula, "_" hide the line."""
    shown = text.encode(
        errors="backslashreplace"
    ).decode()  # a name on disk may be no text
    return " " * shown.startswith("_") + shown.replace("$", r"\$")
