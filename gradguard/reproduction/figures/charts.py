"""Figures of measured numbers: by trial, or against a setting."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from gradguard.palette import COLORS
from gradguard.reproduction.figures.style import (
    MARKERS,
    STYLES,
    log_if_wide,
    panels,
    plain,
    spell_out,
)
from gradguard.reproduction.headings import HEADINGS, SHARES
from gradguard.reproduction.study import Results


def dots(results: Results, *, number: str) -> Figure:
    """Draw one number of every trial, a dot for each seed."""
    values = {label: _values(results, label, number) for label in results}
    figure = Figure(figsize=(6.4, 0.9 + 0.32 * len(values)), layout="constrained")
    axis = figure.add_subplot()
    for row, here in enumerate(values.values()):
        finite = here[np.isfinite(here)]
        axis.plot(finite, [row] * len(finite), "o", color=COLORS[0], alpha=0.7)
        if len(finite) < len(here):
            _say_not_finite(axis, row)
    axis.set_yticks(range(len(values)), list(values))
    axis.set_ylim(len(values) - 0.5, -0.5)
    axis.set_xlabel(HEADINGS[number])
    if number in SHARES:
        axis.set_xlim(-0.03, 1.03)
    else:
        log_if_wide(axis, np.concatenate(list(values.values())))
    plain(axis, grid="x")
    return figure


def lines(results: Results, *, numbers: Sequence[str], x: str) -> Figure:
    """Draw numbers against the value that ends a label: 5 of "norm 5" if `x` is "norm".

    A line for each number and each beginning of a label: the median over seeds, with
    their range as a band.
    """
    figure, (axis,) = panels([""], ylabel=HEADINGS[numbers[0]])
    curves = _curves(results, numbers, x)
    for index, (name, points) in enumerate(curves.items()):
        _band(axis, points, index % len(COLORS), label=name)
    axis.set_xlabel(x)
    places = sorted({place for points in curves.values() for place in points})
    if x != "depth":
        axis.set_xscale("log")
    axis.set_xticks(places, [f"{place:g}" for place in places], minor=False)
    axis.xaxis.set_minor_locator(NullLocator())
    spell_out(axis.yaxis)
    if len(curves) > 1:
        axis.set_ylabel("" if len(numbers) > 1 else HEADINGS[numbers[0]])
        figure.set_size_inches(7.2, 3.2)
        figure.legend(loc="outside right center", frameon=False, fontsize="small")
    return figure


def _values(results: Results, label: str, number: str) -> NDArray[np.float64]:
    return np.array([run.numbers[number] for run in results[label].values()])


def _curves(
    results: Results, numbers: Sequence[str], x: str
) -> dict[str, dict[float, NDArray[np.float64]]]:
    """Return values over seeds by curve and place on the x axis."""
    curves: dict[str, dict[float, NDArray[np.float64]]] = {}
    for number in numbers:
        for label in results:
            beginning, _, place = label.rpartition(x)
            name = beginning.strip(", ") or HEADINGS[number]
            values = _values(results, label, number)
            curves.setdefault(name, {})[float(place)] = values
    return curves


def _band(
    axis: Axes, points: dict[float, NDArray[np.float64]], number: int, *, label: str
) -> None:
    x = list(points)
    columns = list(points.values())
    axis.plot(
        x,
        [np.median(values) for values in columns],
        label=label,
        color=COLORS[number],
        linestyle=STYLES[number],
        marker=MARKERS[number],
        markersize=4,
    )
    low, high = [v.min() for v in columns], [v.max() for v in columns]
    axis.fill_between(x, low, high, color=COLORS[number], alpha=0.15, linewidth=0)


def _say_not_finite(axis: Axes, row: int) -> None:
    axis.annotate(
        "not finite",
        (0.99, row),
        xycoords=("axes fraction", "data"),
        ha="right",
        va="center",
        color=COLORS[1],
    )
