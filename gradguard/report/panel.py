"""One picture of one run, whatever draws it: lines, marks, axes."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

Style = Literal["before", "after", "threshold", "nonfinite", "zero", "epoch"]

# Okabe and Ito's colours, told apart by all eyes (jfly.uni-koeln.de/color, 2008).
PALETTE = ("#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
VERMILLION = "#d55e00"
INK = ""  # the colour of the text, whatever the theme

# Beside a run that exploded by more, any other would be a flat line.
_MOST_DECADES = 12


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


def share_scale(row: list[Panel]) -> bool:
    """Return whether one vertical axis can show the same picture of all runs."""
    span = span_of(row)
    return span is not None and span[1] - span[0] <= _MOST_DECADES


def span_of(row: list[Panel]) -> tuple[float, float] | None:
    """Return log10 of where the vertical axis starts and ends; None if it is linear."""
    lines = [line for panel in row if panel.log for line in panel.lines]
    heights = [y for line in lines for y in line.y if y > 0]
    if not heights:
        return None
    low, high = float(np.log10(min(heights))), float(np.log10(max(heights)))
    margin = 0.02 + 0.05 * (high - low)
    return low - margin, high + margin
