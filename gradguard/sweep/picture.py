"""A sweep as a picture: the metric and the clip fraction against what was swept."""

import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gradguard.sweep.cells import Spread, Summary, headline, varied
from gradguard.sweep.grid import shown
from gradguard.sweep.table import label

_WIDE = 100  # A larger ratio than this needs a log axis.


def draw(summaries: tuple[Summary, ...], file: Path) -> None:
    """Write a picture of the sweep, in the format that the file's name ends in.

    Above, the median over the seeds of the metric on the test set, in a band from the
    smallest to the largest, and dashed that on the training set; below, the clip
    fraction. The first setting with several values is the horizontal axis, the others
    make a line each. Crosses mark where runs diverged, and say how many.

    Args:
        summaries: The cells; some setting has several values.
        file: Where to write, as "sweep.png".
    """
    across, *others = varied([summary.cell for summary in summaries])
    places = _places([summary.cell.values[across] for summary in summaries])
    figure = Figure(figsize=(7, 5.5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])

    def line(summary: Summary) -> str:
        values = summary.cell.values
        return ", ".join(f"{label(name)} {shown(values[name])}" for name in others)

    def place(summary: Summary) -> float:
        return places[shown(summary.cell.values[across])]

    metric = headline(summaries)
    for name, group in groupby(sorted(summaries, key=line), key=line):
        cells = sorted(group, key=place)
        x = list(map(place, cells))
        color = _metric(above, x, cells, metric=metric, name=name)
        fractions = _medians([cell.clip_fraction for cell in cells])
        below.plot(x, fractions, "o-", color=color)
        _crosses(above, x, cells, color=color)
    _scales(above, below, summaries, places=places, metric=metric)
    below.set(xlabel=label(across), ylabel="clip fraction", ylim=(-0.05, 1.05))
    above.margins(x=0.1)
    above.legend(frameon=False)
    figure.savefig(file, dpi=150)


def _places(values: Sequence[Any]) -> dict[str, float]:
    """Return the place of each value on the x axis, by the value's label.

    Numbers stand where they are, and "none" to their right, as the clip that is
    infinitely large. Other values stand side by side.
    """
    numbers = [one for one in values if isinstance(one, int | float) and one > 0]
    if len(numbers) + values.count(None) < len(values) or not numbers:
        return {
            name: float(i) for i, name in enumerate(dict.fromkeys(map(shown, values)))
        }
    beyond = max(numbers) * max(2.0, max(numbers) / min(numbers)) ** 0.25
    return {shown(one): beyond if one is None else float(one) for one in values}


def _metric(
    axes: Axes, x: list[float], cells: list[Summary], *, metric: str, name: str
) -> Any:
    test = [cell.spread("test", metric) for cell in cells]
    lines = axes.plot(x, _medians(test), "o-", label=f"test {name}".strip())
    color = lines[0].get_color()
    low = [math.nan if one is None else one.min for one in test]
    high = [math.nan if one is None else one.max for one in test]
    axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
    train = _medians([cell.spread("train", metric) for cell in cells])
    axes.plot(x, train, "--", color=color, label=f"train {name}".strip())
    return color


def _crosses(axes: Axes, x: list[float], cells: list[Summary], *, color: Any) -> None:
    """Mark at the upper edge what has no place on the axis: NaN and Inf."""
    edge = axes.get_xaxis_transform()
    for where, cell in zip(x, cells, strict=True):
        if cell.diverged:
            axes.plot(where, 0.97, "x", transform=edge, color=color, clip_on=False)
            share = f"{cell.diverged}/{len(cell.results)} diverged"
            axes.annotate(
                share, (where, 0.93), xycoords=edge, ha="center", va="top", fontsize=8
            )


def _scales(
    above: Axes,
    below: Axes,
    summaries: tuple[Summary, ...],
    *,
    places: dict[str, float],
    metric: str,
) -> None:
    spreads = [
        cell.spread(part, metric) for cell in summaries for part in ("train", "test")
    ]
    values = [value for one in spreads if one is not None for value in one]
    if _is_wide(values):
        above.set_yscale("log")
    if metric == "accuracy":
        above.set_ylim(-0.05, 1.05)
    if _is_numeric(places):
        below.set_xscale("log")
    below.set_xticks(list(places.values()), list(places), minor=False)
    below.minorticks_off()
    above.set_ylabel(metric)


def _is_wide(values: list[float]) -> bool:
    return bool(values) and 0 < _WIDE * min(values) < max(values)


def _is_numeric(places: dict[str, float]) -> bool:
    """Whether the places are the values themselves, which ranks 0, 1, .. are not."""
    return min(places.values()) > 0


def _medians(spreads: list[Spread | None]) -> list[float]:
    return [math.nan if one is None else one.median for one in spreads]
