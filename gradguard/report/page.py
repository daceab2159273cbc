"""Runs in, one self-contained page out: verdicts, then pictures, then facts.

Pictures are SVG, a few kilobytes each, that need no script, scale and print; whoever wants
to zoom and to read values off asks for plotly, whose library makes a page of 5 MB.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from gradguard import __version__
from gradguard.names import named
from gradguard.output import finite
from gradguard.report import overview, words
from gradguard.report.facts import parameter_facts
from gradguard.report.heatmap import MOST_LABELS, Heatmap, heatmap, narrowed
from gradguard.report.panels import Line, Panel, Span, overlays, panels, span_of
from gradguard.report.runs import Found, Run
from gradguard.report.svg import legend, svg
from gradguard.report.view import View

_DASHES = {"before": "dot", "threshold": "dash", "dashed": "dash"}
_MARKERS = {"nonfinite": "x-thin-open", "zero": "triangle-down"}

# As many as SVG of a screen's width has pixels for.
_POINTS = 480


class _Told(NamedTuple):
    """One run on the page.

    Attributes:
        run: The run.
        facts: What sums it up, by name.
        heat: Its norms as colours.
        labels: Of the heatmap's rows; none where there are too many.
        pictures: Its other pictures.
        layers: The table by layer: heads, and rows of a name and cells.
    """

    run: Run
    facts: dict[str, list[str]]
    heat: Heatmap
    labels: Sequence[str]
    pictures: list["_Picture"]
    layers: tuple[list[str], list[Any]]


class _Picture(NamedTuple):
    """One picture on the page: SVG, or what plotly draws in its place."""

    panel: Panel
    svg: str
    legend: list[tuple[str, str, str]]
    plotly: Any


def page(
    found: Found, *, view: View, command: str = "", interactive: bool = False
) -> str:
    """Return the page as HTML; it asks the network for nothing.

    Args:
        found: The runs, and what was left out.
        view: What the pictures and the tables by layer show.
        command: What made the page, to be told on it.
        interactive: Whether pictures can be explored, by plotly.
    """
    runs = overview.ranked(found.runs)
    drawn = view if interactive else replace(view, points=_POINTS)
    columns = panels(runs, drawn)
    together = overlays(runs, drawn) if len(runs) > 1 else []
    told = [_told(run, column, view) for run, column in zip(runs, columns, strict=True)]
    pictures = [_picture(panel) for panel in together]
    return _template().render(
        title=named([run.label for run in found.runs]),
        made=f"{datetime.now():%Y-%m-%d %H:%M}, gradguard {__version__}",
        command=command,
        count=overview.count_of_bad(runs),
        labels=words.short_labels(runs),
        told=told,
        together=pictures,
        open=overview.shown_one_by_one(runs),
        history=words.history,
        suggested=words.suggested,
        left_out=words.left_out(found),
        plotly=_plotly() if interactive else "",
        drawn=[
            picture.plotly
            for picture in [*pictures, *(p for one in told for p in one.pictures)]
        ],
    )


def _told(run: Run, column: list[Panel], view: View) -> _Told:
    names = view.names(run.recording.records.names)
    heat = narrowed(heatmap(view.rows(run.recording), run.verdict), names)
    labels = heat.names if len(heat.names) <= MOST_LABELS else ()
    pictures = [_picture(panel) for panel in column]
    return _Told(
        run, words.fact_rows([run]), heat, labels, pictures, _layers(run, view)
    )


def _layers(run: Run, view: View) -> tuple[list[str], list[Any]]:
    """Return the table by layer: its heads, and its rows of a name and cells."""
    rows = parameter_facts(run.recording, view)
    epochs = words.has_mean_abs(rows)
    heads = [f"before, {head}" for head in words.NORM_HEADS]
    heads += [f"mean |g| after, {head}" for head in words.MEAN_ABS_HEADS] * epochs
    cells = [
        (row.name, words.norm_cells(row) + words.mean_abs_cells(row) * epochs)
        for row in rows
    ]
    return heads, cells


def _picture(panel: Panel) -> _Picture:
    span = span_of([panel])
    drawn = svg(panel, span)
    return _Picture(panel, drawn, legend(panel), _for_plotly(panel, span))


def _for_plotly(panel: Panel, span: Span | None) -> Any:
    """Return what the page's script draws."""
    return finite(
        {
            "title": panel.title,
            "x": panel.x_label,
            "y": panel.y_label,
            "range": span,
            "ticks": panel.ticks,
            "traces": [
                _trace(line, by_place=bool(panel.ticks)) for line in panel.lines
            ],
        }
    )


def _trace(line: Line, *, by_place: bool) -> dict[str, Any]:
    """Return one line as a trace of plotly."""
    marks = line.style in _MARKERS
    # Of a line by step, the one after it speaks for both in the legend.
    before = line.style == "before" and not by_place
    return {
        "name": line.name + " before" * before,
        "legendgroup": line.name,
        "showlegend": not before,
        "mode": "markers" if marks else "lines+markers" if by_place else "lines",
        "x": line.x,
        "y": line.y,
        "opacity": 0.6 if line.style == "before" else 1,
        "line": {
            "color": line.color,
            "dash": _DASHES.get(line.style, "solid"),
            "width": 1.6,
        },
        "marker": {
            "color": line.color,
            "symbol": _MARKERS.get(line.style, "circle"),
            "size": 6,
        },
    }


@cache
def _template() -> Template:
    loader = PackageLoader("gradguard.report", "static")
    return Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("page.html")


@cache
def _plotly() -> str:
    path = files("plotly").joinpath("package_data", "plotly.min.js")
    return path.read_text("utf-8")
