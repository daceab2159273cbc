"""Figures of training step by step: norms, losses, layers."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from gradguard.palette import COLORS
from gradguard.records.recording import Epochs
from gradguard.records.records import Records
from gradguard.reproduction.figures.style import (
    GRAY,
    MARKERS,
    STYLES,
    count,
    line,
    panels,
    plain,
)
from gradguard.reproduction.study import Results

_FLOOR = 1e-9  # where a norm of zero is drawn on a logarithmic axis
_EPOCH = 16  # steps over which a loss is averaged


def norms(results: Results, *, labels: Sequence[str], steps: int) -> Figure:
    """Draw the total norm before and after clipping, step by step, of the first seed."""
    figure, axes = panels(labels, ylabel="total gradient norm")
    for axis, label in zip(axes, labels, strict=True):
        records = _records(results, label)[:steps]
        line(axis, records.steps, records.total_before, 0, label="before")
        if records.clipped.any():
            line(axis, records.steps, records.total_after, 1, label="after")
        _mark_nonfinite(axis, records)
        count(axis, "step")
        axis.legend(frameon=False)
    return figure


def recurrent(results: Results, *, labels: Sequence[str], steps: int) -> Figure:
    """Draw the norms of W, U and b before clipping, step by step, of the first seed."""
    figure, axes = panels(labels, ylabel="gradient norm before (0: bottom)")
    for axis, label in zip(axes, labels, strict=True):
        records = _records(results, label)[:steps]
        for number, name in enumerate(("W", "U", "b")):
            before = records.before[:, records.names.index(f"cell.{name}")]
            line(axis, records.steps, before.clip(_FLOOR), number, label=name)
        count(axis, "step")
    axes[-1].legend(frameon=False)
    return figure


def losses(results: Results, *, labels: Sequence[str]) -> Figure:
    """Draw the mean loss of every 16 training steps, of the first seed."""
    figure, (axis,) = panels([""], ylabel="training loss")
    for number, label in enumerate(labels):
        loss = _records(results, label).loss
        means = loss[: len(loss) // _EPOCH * _EPOCH].reshape(-1, _EPOCH).mean(axis=1)
        line(axis, np.arange(1, len(means) + 1), means, number, label=label)
    axis.axhline(100, color=GRAY, linewidth=0.8)
    count(axis, "epoch")
    axis.legend(frameon=False)
    return figure


def layers(results: Results, *, labels: Sequence[str]) -> Figure:
    """Draw each layer's weight gradient norm, its median over steps and seeds."""
    figure, (axis,) = panels([""], ylabel="gradient norm before")
    for number, label in enumerate(labels):
        recordings = [run.recording for run in results[label].values()]
        profiles = [_profile(one.records) for one in recordings if one is not None]
        median = np.median(profiles, axis=0)
        axis.plot(
            np.arange(1, len(median) + 1),
            median,
            label=label,
            color=COLORS[number],
            linestyle=STYLES[number],
            marker=MARKERS[number],
        )
    count(axis, "layer; the last one is the output")
    axis.legend(frameon=False)
    return figure


def epochs(results: Results, *, labels: Sequence[str]) -> Figure:
    """Draw the deviation of weights and of gradients, by layer and epoch, of seed 0.

    Those of gradients are medians over ten epochs: single ones leap.
    """
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    grid = figure.subplots(2, len(labels), sharex=True, sharey="row")
    for (above, below), label in zip(grid.T, labels, strict=True):
        above.set_title(label, fontsize="medium")
        recorded = _epochs(results, label)
        layers = [n for n in recorded.names if n.endswith(".weight")]
        for number, name in enumerate(layers):
            column = recorded.names.index(name)
            weights = recorded["weight_sd"][:, column]
            gradients = recorded["gradient_sd_after"][:, column]
            line(above, recorded.epochs, weights, number, label="")
            tens = gradients[: len(gradients) // 10 * 10].reshape(-1, 10)
            places = np.arange(len(tens)) * 10 + 5
            line(below, places, np.median(tens, axis=1), number, label=name)
        below.set_yscale("log")
        count(below, "epoch")
        plain(above, grid="y")
        plain(below, grid="y")
    grid[0, 0].set_ylabel("s.d. of weights")
    grid[1, 0].set_ylabel("s.d. of gradients after")
    handles, names = grid[1, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _epochs(results: Results, label: str) -> Epochs:
    recording = results[label][0].recording
    assert recording is not None  # the trials that are drawn so have both
    assert recording.epochs is not None
    return recording.epochs


def _records(results: Results, label: str) -> Records:
    recording = results[label][0].recording
    assert recording is not None  # the trials that are drawn so are trained
    return recording.records


def _profile(records: Records) -> NDArray[np.float32]:
    """Return the median over steps of each layer's weight gradient norm, `[layers]`."""
    columns = [
        column
        for column, name in enumerate(records.names)
        if name.endswith(".weight") and "norm" not in name
    ]
    profile: NDArray[np.float32] = np.median(records.before[:, columns], axis=0)
    return profile


def _mark_nonfinite(axis: Axes, records: Records) -> None:
    """Shade the steps from the first non-finite gradient on."""
    if not records.nonfinite.any():
        return
    first = records.steps[records.nonfinite][0]
    axis.axvspan(first, records.steps[-1], color="#eeeeee")
    axis.annotate(
        "NaN or Inf",
        ((first + records.steps[-1]) / 2, 0.5),
        xycoords=("data", "axes fraction"),
        ha="center",
        color=GRAY,
    )
