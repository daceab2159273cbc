"""Figures of the claims that need no training."""

import numpy as np
from matplotlib.figure import Figure

from gradguard.palette import COLORS
from gradguard.reproduction.claims.documents import CSDN_GRADIENT, CSDN_PRINTED
from gradguard.reproduction.claims.vectors import logistic_map, targets
from gradguard.reproduction.figures.style import line, panels, plain
from gradguard.reproduction.study import Results


def target(results: Results) -> Figure:
    """Draw the histogram of the targets, and above it their range and quartiles."""
    del results  # nothing is random
    y = targets()
    least, low, median, high, largest = np.quantile(y, (0, 0.25, 0.5, 0.75, 1))
    figure = Figure(figsize=(5.6, 3.2), layout="constrained")
    box, bars = figure.subplots(2, 1, sharex=True, height_ratios=(1, 4))
    # By hand: the name of boxplot's option for this changed in matplotlib 3.10.
    box.hlines(0, least, largest, color=COLORS[0])
    box.hlines(0, low, high, color=COLORS[0], linewidth=12)
    box.plot(median, 0, "|", color="white", markersize=12)
    box.set_axis_off()
    bars.hist(y, bins=40, color=COLORS[0])
    bars.set_xlabel("target")
    bars.set_ylabel("rows")
    plain(bars, grid="y")
    return figure


def clipped_vector(results: Results) -> Figure:
    """Draw the elements before and after clipping, and what the document prints."""
    first = results["torch"][0].numbers["first"]
    gradient = np.array(CSDN_GRADIENT)
    bars = {
        "before": gradient,
        "after, by torch": gradient * first / gradient[0],
        "after, as printed": np.array(CSDN_PRINTED),
    }
    figure = Figure(figsize=(5.6, 3.2), layout="constrained")
    axis = figure.add_subplot()
    for number, (label, height) in enumerate(bars.items()):
        places = np.arange(1, 6) + 0.27 * (number - 1)
        axis.bar(places, height, 0.25, label=label, color=COLORS[number])
    axis.set_xlabel("element")
    axis.legend(frameon=False)
    plain(axis, grid="y")
    return figure


def chain(results: Results) -> Figure:
    """Draw w^n for n layers."""
    del results  # a sketch of the claim itself
    figure, (axis,) = panels([""], ylabel="product of the factors")
    depths = np.arange(51)
    for number, weight in enumerate((1.2, 0.8)):
        line(axis, depths, weight**depths, number, label=f"factor {weight}")
    axis.set_xlabel("layers")
    axis.legend(frameon=False)
    return figure


def logistic(results: Results) -> Figure:
    """Draw the map after 1, 3 and 6 iterations."""
    del results  # a sketch of the claim itself
    iterations = (1, 3, 6)
    titles = [f"{n} iteration{'s' * (n > 1)}" for n in iterations]
    figure, axes = panels(titles, ylabel="y")
    x = np.linspace(0, 1, 1001)
    for axis, n in zip(axes, iterations, strict=True):
        axis.set_yscale("linear")
        line(axis, x, logistic_map(x, iterations=n)[0], 0, label="y")
        axis.set_xlabel("x")
    return figure
