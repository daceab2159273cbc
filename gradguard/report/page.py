"""Runs in, one self-contained page out: the report, with pictures that can be explored.

Plotly rather than SVG by matplotlib, though it makes a page of 5 MB: whoever is sent the
page zooms, reads values off and hides lines, and it is the library of the TensorBoard
page already.
"""

from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from gradguard.names import named
from gradguard.output import finite
from gradguard.report import words
from gradguard.report.facts import parameter_facts
from gradguard.report.panels import Line, Panel, Span, abreast, panels, spanned
from gradguard.report.runs import Found, Run
from gradguard.report.view import View

_DASHES = {"before": "dot", "threshold": "dash"}
_MARKERS = {"nonfinite": "x-thin-open", "zero": "triangle-down"}


def page(found: Found, *, view: View) -> str:
    """Return the page as HTML; it asks the network for nothing."""
    return _template().render(
        title=named([run.label for run in found.runs]),
        runs=found.runs,
        facts=words.fact_rows(found.runs).items(),
        history=words.history,
        suggested=words.suggested,
        pictures=[
            [_picture(*place) for place in spanned(row)]
            for row in abreast(panels(found.runs, view))
        ],
        by_parameter=[_by_parameter(run, view) for run in found.runs],
        left_out=words.left_out(found),
        plotly=_plotly(),
    )


def _by_parameter(run: Run, view: View) -> tuple[str, list[str], list[Any]]:
    """Return a table's label, its heads, and its rows: a name and cells each."""
    rows = parameter_facts(run.recording, view)
    epochs = words.has_mean_abs(rows)
    heads = [f"before, {head}" for head in words.NORM_HEADS]
    heads += [f"mean |g| after, {head}" for head in words.MEAN_ABS_HEADS] * epochs
    cells = [
        (row.name, words.norm_cells(row) + words.mean_abs_cells(row) * epochs)
        for row in rows
    ]
    return run.label, heads, cells


def _picture(panel: Panel | None, span: Span | None) -> Any:
    """Return what the page's script draws; None where there is nothing."""
    return panel and finite(
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
