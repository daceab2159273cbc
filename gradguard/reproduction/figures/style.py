"""How every figure looks: colours, axes, size."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from numpy.typing import ArrayLike, NDArray

from gradguard.palette import COLORS

# Of the lines in the order of COLORS, which print in grey as well.
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P")
GRAY = "#777777"

_WIDE = 30  # ratio of the largest to the smallest from which on a scale is logarithmic
_FEW = 1000  # ratio up to which powers of ten alone are too few ticks


def panels(titles: Sequence[str], *, ylabel: str) -> tuple[Figure, list[Axes]]:
    """Return a figure of panels side by side that share a logarithmic y axis."""
    width = 5.6 if len(titles) == 1 else 3.3 * len(titles)
    figure = Figure(figsize=(width, 3.2), layout="constrained")
    axes = list(figure.subplots(1, len(titles), sharey=True, squeeze=False)[0])
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize="medium")
        axis.set_yscale("log")
        plain(axis, grid="y")
    axes[0].set_ylabel(ylabel)
    return figure, axes


def line(axis: Axes, x: ArrayLike, y: ArrayLike, number: int, *, label: str) -> None:
    """Draw a line in the colour and the style of `number`."""
    axis.plot(x, y, label=label, color=COLORS[number], linestyle=STYLES[number])


def count(axis: Axes, label: str) -> None:
    """Label the x axis, and put its ticks at whole numbers."""
    axis.set_xlabel(label)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))


def plain(axis: Axes, *, grid: Any) -> None:
    """Hide the frame above and to the right, and draw a faint grid."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis=grid, color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)


def log_if_wide(axis: Axes, values: NDArray[np.float64]) -> None:
    """Make the x axis logarithmic where positive values span more than a decade."""
    finite = values[np.isfinite(values)]
    if len(finite) and finite.min() > 0 and finite.max() / finite.min() > _WIDE:
        axis.set_xscale("log")
        spell_out(axis.xaxis)


def spell_out(axis: Axis) -> None:
    """Put ticks at 20 and 500, too, on a logarithmic axis with few powers of ten."""
    low, high = axis.get_view_interval()
    axis.set_minor_locator(NullLocator())
    if high / low < _FEW:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
