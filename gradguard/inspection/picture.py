"""Gradient norms by depth, as a picture."""

import math
from pathlib import Path

from matplotlib.figure import Figure

from gradguard.inspection.layers import Inspection

_MOST_NAMES = 24  # on one axis


def draw(inspection: Inspection, file: Path) -> None:
    """Write a picture of all layers' norms on a log axis, the input on the left.

    A norm that is 0 or not finite has no place there: a mark at the edge says so.

    Args:
        inspection: What to draw.
        file: Where to write, as "layers.png".
    """
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    depth = range(len(inspection.layers))
    for kind, name in (
        ("norm_before", "of the weight"),
        ("signal_before", "of the output"),
    ):
        norms = [getattr(layer, kind) for layer in inspection.layers]
        shown = [norm if 0 < norm < math.inf else math.nan for norm in norms]
        axes.plot(depth, shown, "o-", markersize=4, label=f"gradient {name}")
    for place, layer in zip(depth, inspection.layers, strict=True):
        if not 0 < layer.norm_before < math.inf:
            edge, mark = (0.02, "v") if layer.norm_before == 0 else (0.98, "x")
            axes.plot(
                place, edge, mark, color="C3", transform=axes.get_xaxis_transform()
            )
    names = [layer.name for layer in inspection.layers]
    every = max(1, math.ceil(len(names) / _MOST_NAMES))
    axes.set_xticks(depth[::every], names[::every], rotation=90, fontsize="small")
    if any(0 < layer.norm_before < math.inf for layer in inspection.layers):
        axes.set_yscale("log")
    axes.set_ylabel("L2 norm, before clipping")
    axes.set_title(inspection.subject, loc="left", fontsize="medium")
    axes.legend(frameon=False)
    figure.savefig(file, dpi=150)
