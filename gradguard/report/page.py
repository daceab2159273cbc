"""Runs in, one self-contained page out: the report, with pictures that can be explored.

Plotly rather than SVG by matplotlib, though it makes a page of 5 MB: whoever is sent the
page zooms, reads values off and hides lines, and it is the library of the TensorBoard
page already.
"""

import html
import json
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from gradguard.health.finding import Finding
from gradguard.names import named
from gradguard.report import words
from gradguard.report.layers import Layer, layers
from gradguard.report.panel import Line, Panel, share_scale, span_of
from gradguard.report.panels import panels
from gradguard.report.runs import Found, Run
from gradguard.report.view import View

_DASHES = {"before": "dot", "threshold": "dash"}
_MARKERS = {"nonfinite": "x-thin-open", "zero": "triangle-down"}


def page(found: Found, *, view: View) -> str:
    """Return the page as HTML; it asks the network for nothing."""
    runs = found.runs
    columns = panels(runs, view)
    keys = dict.fromkeys(panel.key for column in columns for panel in column)
    rows = [
        [
            next((panel for panel in column if panel.key == key), None)
            for column in columns
        ]
        for key in keys
    ]
    body = [
        _facts(runs),
        '<div class="wide">',
        _abreast(map(_verdict, runs)),
        *(_abreast('<div class="picture"></div>' for _ in row) for row in rows),
        "</div>",
        *(_layers(run, view) for run in runs),
        *(f"<p>{html.escape(sentence)}</p>" for sentence in words.left_out(found)),
    ]
    title = html.escape(_title(runs))
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width">',
            '<link rel="icon" href="data:,">',
            f"<title>gradguard: {title}</title>",
            f"<style>{_static('page.css')}</style></head><body>",
            f"<h1>Gradients of {title}</h1>",
            *body,
            f'<script type="application/json" id="pictures">{_pictures(rows)}</script>',
            f"<script>{_plotly()}</script>",
            f"<script>{_static('page.js')}</script>",
            "</body></html>",
        ]
    )


def _title(runs: list[Run]) -> str:
    return named([run.label for run in runs])


def _facts(runs: list[Run]) -> str:
    head = "".join(f"<th>{html.escape(run.label)}</th>" for run in runs)
    body = (_row(fact, values) for fact, values in words.fact_rows(runs).items())
    return (
        f'<div class="wide"><table><thead><tr><th>run</th>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _verdict(run: Run) -> str:
    findings = "".join(map(_finding, run.findings)) or "<p>Nothing found.</p>"
    return (
        f"<h2>{html.escape(run.label)}</h2>{findings}"
        f"<p>{html.escape(words.suggested(run))}</p>"
    )


def _finding(finding: Finding) -> str:
    text, advice = html.escape(str(finding)), html.escape(finding.advice)
    return (
        f'<p class="finding {finding.severity}"><b>{finding.severity}</b> '
        f"{text} <span>{advice}</span></p>"
    )


def _layers(run: Run, view: View) -> str:
    recording = view.rows(run.recording)
    names = set(view.names(recording.records.names))
    rows = [layer for layer in layers(recording) if layer.name in names]
    epochs = words.has_mean_abs(rows)
    heads = [f"before, {head}" for head in words.NORM_HEADS]
    heads += [f"mean |g| after, {head}" for head in words.MEAN_ABS_HEADS] * epochs
    head = "".join(f"<th>{head}</th>" for head in heads)
    body = "".join(_row(layer.name, _cells(layer, epochs=epochs)) for layer in rows)
    return (
        f"<details><summary>Norms by layer: {html.escape(run.label)}</summary>"
        f'<div class="wide"><table><thead><tr><th>parameter</th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></details>"
    )


def _cells(layer: Layer, *, epochs: bool) -> list[str]:
    return words.norm_cells(layer) + words.mean_abs_cells(layer) * epochs


def _row(head: str, values: Iterable[str]) -> str:
    cells = "".join(f"<td>{html.escape(value)}</td>" for value in values)
    return f"<tr><th>{html.escape(head)}</th>{cells}</tr>"


def _abreast(parts: Iterable[str]) -> str:
    cells = "".join(f"<section>{part}</section>" for part in parts)
    return f'<div class="runs">{cells}</div>'


def _pictures(rows: list[list[Panel | None]]) -> str:
    """Return what the page's script draws; no text in it can end the script."""
    drawn = []
    for row in rows:
        known = [panel for panel in row if panel]
        shared = share_scale(known)
        drawn += [
            panel and _drawn(panel, span_of(known if shared else [panel]))
            for panel in row
        ]
    return json.dumps(drawn, allow_nan=False).replace("<", "\\u003c")


def _drawn(panel: Panel, span: tuple[float, float] | None) -> dict[str, Any]:
    return {
        "title": _literal(panel.title),
        "x": panel.x_label,
        "y": panel.y_label,
        "range": span,
        "ticks": list(map(_literal, panel.ticks)),
        "traces": [_trace(line, by_place=bool(panel.ticks)) for line in panel.lines],
    }


def _trace(line: Line, *, by_place: bool) -> dict[str, Any]:
    """Return one line as a trace of plotly, whose texts are a kind of HTML."""
    marks = line.style in _MARKERS
    # Of a line by step, the one after it speaks for both in the legend.
    before = line.style == "before" and not by_place
    return {
        "name": _literal(line.name + " before" * before),
        "legendgroup": _literal(line.name),
        "showlegend": not before,
        "mode": "markers" if marks else "lines+markers" if by_place else "lines",
        "x": _plain(line.x),
        "y": _plain(line.y),
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


def _literal(text: str) -> str:
    """Return the text as plotly shows it unchanged: it knows some entities, no quotes."""
    return html.escape(text, quote=False)


def _plain(values: Sequence[float]) -> list[float | None]:
    return [value if np.isfinite(value) else None for value in values]


def _static(name: str) -> str:
    return files("gradguard.report").joinpath("static", name).read_text("utf-8")


@cache
def _plotly() -> str:
    path = files("plotly").joinpath("package_data", "plotly.min.js")
    return path.read_text("utf-8")
