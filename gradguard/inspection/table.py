"""An inspection as a table of at most 80 columns, and as JSON."""

from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from gradguard.inspection.layers import Inspection
from gradguard.inspection.words import sentences
from gradguard.output import as_json


def print_inspection(inspection: Inspection, console: Console) -> None:
    """Print a row for each weight, and below in words what follows."""
    console.print(table(inspection))
    for sentence in sentences(inspection):
        console.print(sentence, soft_wrap=True)


def table(inspection: Inspection) -> Table:
    """Return each weight with its gradient, and the factors to the layer after it."""
    found = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    found.add_column(inspection.subject, overflow="fold")
    for header in (
        "shape", "weight\nsd", "gradient\nL2", "gradient\nmean abs",
        "weight\nfactor", "output\nfactor",
    ):  # fmt: skip
        found.add_column(header, justify="right")
    weights = inspection.factors("norm_before")
    outputs = inspection.factors("signal_before")
    for layer in inspection.layers:
        found.add_row(
            layer.name,
            "x".join(map(str, layer.shape)),
            f"{layer.weight_sd:.2g}",
            f"{layer.norm_before:.2e}",
            f"{layer.mean_abs_before:.2e}",
            *(
                f"{factors[layer.name]:.2g}" if layer.name in factors else ""
                for factors in (weights, outputs)
            ),
        )
    return found


def document(inspection: Inspection) -> str:
    """Return the inspection as one JSON document: what the table shows and more."""
    content: dict[str, Any] = asdict(inspection) | {
        "total_before": inspection.total_before,
        "chain": [layer.name for layer in inspection.chain],
        "weight_factor": inspection.factor("norm_before"),
        "output_factor": inspection.factor("signal_before"),
        "first_to_last": inspection.first_to_last,
    }
    return as_json(content, indent=2)
