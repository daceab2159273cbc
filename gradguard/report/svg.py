"""A panel in, SVG out: few lines of text that scale, print and follow the page's theme."""

from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

import numpy as np

from gradguard.report.panels import INK, Line, Panel, Span

WIDTH, HEIGHT = 720, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 8, 8, 34
_BOTTOM_OF_NAMES = 120
_MOST_NAMES = 24
_MOST_TICKS = 7
_SHOWN_OF_A_NAME = 22

_DASHES = {"before": "2 3", "threshold": "7 4"}
_MARKS = {"nonfinite": "M-4-4 4 4M4-4-4 4", "zero": "M-4-3H4L0 4Z"}


class _Axis(NamedTuple):
    """Where numbers are: from `low` to `high`, drawn from `start` to `stop`."""

    low: float
    high: float
    start: float
    stop: float

    def place(self, value: float) -> float:
        """Return where a number is drawn."""
        share = (value - self.low) / (self.high - self.low or 1.0)
        return self.start + share * (self.stop - self.start)


def svg(panel: Panel, span: Span | None) -> str:
    """Return a picture of a panel; the heights are logarithms where it has a span."""
    bottom = _BOTTOM_OF_NAMES if panel.ticks else _BOTTOM
    height = HEIGHT + bottom - _BOTTOM
    x, y = _axes(panel, span, height - bottom)
    parts = [
        *(_names(panel.ticks, x, height - bottom) if panel.ticks else _steps(x, y)),
        *_heights(y, log=span is not None),
        *(part for line in panel.lines for part in _drawn(line, x, y, span)),
        f'<text class="axis" x="{WIDTH - _RIGHT}" y="{height - 4}" '
        f'text-anchor="end">{escape(panel.x_label)}</text>',
    ]
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(panel.title)}">{"".join(parts)}</svg>'
    )


def legend(panel: Panel) -> list[tuple[str, str, str]]:
    """Return name, colour and style of what has an entry of its own."""
    own = [line for line in panel.lines if line.style != "before" or panel.ticks]
    return [(line.name, line.color or "currentColor", line.style) for line in own]


def _axes(panel: Panel, span: Span | None, bottom: float) -> tuple[_Axis, _Axis]:
    across = _finite(value for line in panel.lines for value in line.x)
    heights = _finite(value for line in panel.lines for value in line.y)
    low, high = span or (min(heights), max(heights))
    x = _Axis(min(across), max(across), _LEFT, WIDTH - _RIGHT)
    if panel.ticks:
        x = _Axis(-0.5, len(panel.ticks) - 0.5, _LEFT, WIDTH - _RIGHT)
    return x, _Axis(low, high, bottom, _TOP)


def _finite(values: Iterator[float]) -> list[float]:
    return [value for value in values if np.isfinite(value)] or [0.0]


def _drawn(line: Line, x: _Axis, y: _Axis, span: Span | None) -> Iterator[str]:
    color = line.color if line.color != INK else "currentColor"
    name = f"<title>{escape(line.name)}</title>"
    points = list(_points(line, x, y, log=span is not None))
    if line.style in _MARKS:
        marks = "".join(
            f'<path transform="translate({at:.1f} {height:.1f})" d="{_MARKS[line.style]}"/>'
            for piece in points
            for at, height in piece
        )
        yield f'<g class="mark" stroke="{color}">{name}{marks}</g>'
        return
    pieces = "".join(
        "M" + " ".join(f"{at:.1f},{height:.1f}" for at, height in piece)
        for piece in points
    )
    dash = _DASHES.get(line.style)
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    yield f'<path class="line" stroke="{color}"{dashed} d="{pieces}">{name}</path>'


def _points(
    line: Line, x: _Axis, y: _Axis, *, log: bool
) -> Iterator[list[tuple[float, float]]]:
    """Yield the pieces of a line, which ends where its height is no number to draw."""
    piece: list[tuple[float, float]] = []
    for across, up in zip(line.x, line.y, strict=True):
        if np.isfinite(up) and np.isfinite(across) and (up > 0 or not log):
            height = float(np.log10(up)) if log else up
            piece.append((x.place(across), y.place(height)))
        elif piece:
            yield piece
            piece = []
    if piece:
        yield piece


def _steps(x: _Axis, y: _Axis) -> Iterator[str]:
    for value in _round(x.low, x.high):
        at = x.place(value)
        yield (
            f'<text x="{at:.1f}" y="{y.start + 15:.0f}" '
            f'text-anchor="middle">{value:g}</text>'
        )


def _names(names: Sequence[str], x: _Axis, bottom: float) -> Iterator[str]:
    every = -(-len(names) // _MOST_NAMES)
    for place in range(0, len(names), every):
        at, name = x.place(place), names[place]
        shown = (
            name if len(name) <= _SHOWN_OF_A_NAME else f"*{name[-_SHOWN_OF_A_NAME:]}"
        )
        yield (
            f'<text transform="translate({at:.1f} {bottom + 10:.0f}) rotate(-40)" '
            f'text-anchor="end"><title>{escape(name)}</title>{escape(shown)}</text>'
        )


def _heights(y: _Axis, *, log: bool) -> Iterator[str]:
    """Yield a line and a number at each decade, or at round numbers."""
    for value in _decades(y.low, y.high) if log else _round(y.low, y.high):
        at = y.place(value)
        number = f'10<tspan dy="-5" class="power">{value:.0f}</tspan>'
        yield (
            f'<path class="grid" d="M{_LEFT} {at:.1f}H{WIDTH - _RIGHT}"/>'
            f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">'
            f"{number if log else f'{value:g}'}</text>"
        )


def _decades(low: float, high: float) -> list[float]:
    first, last = int(np.ceil(low)), int(np.floor(high))
    every = max(1, -(-(last - first) // _MOST_TICKS))
    return [float(power) for power in range(first, last + 1, every)]


def _round(low: float, high: float) -> list[float]:
    """Return a few round numbers between two."""
    if high <= low:
        return [low]
    rough = (high - low) / _MOST_TICKS
    power = 10 ** np.floor(np.log10(rough))
    width = next(size * power for size in (1, 2, 5, 10) if size * power >= rough)
    first = np.ceil(low / width)
    return [float(f"{k * width:.6g}") for k in np.arange(first, high / width + 1e-9)]
