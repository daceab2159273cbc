"""The tables that `gradguard train` ends with, at most 80 columns wide."""

import shlex

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from gradguard.experiments.run import Outcome
from gradguard.health.diagnosis import diagnose
from gradguard.records.records import Records
from gradguard.report.table import finding_lines


def show(outcome: Outcome, console: Console) -> None:
    """Print metrics, gradients, serious findings, and the commands that show the run."""
    console.print(metrics_table(outcome))
    console.print(gradients_table(outcome))
    serious = [
        finding_lines(finding.severity, str(finding))
        for finding in diagnose(outcome.recording)
        if finding.severity != "note"
    ]
    if serious:
        console.print("", *serious, sep="\n")
    commands = (
        f"gradguard report {shlex.quote(str(outcome.run_dir))}",
        f"tensorboard --logdir {shlex.quote(outcome.experiment.log_dir)}",
    )
    # Wrapped by the terminal, not by us: they have to survive copy and paste.
    console.print("", *commands, sep="\n", soft_wrap=True)


def metrics_table(outcome: Outcome) -> Table:
    """Return a row for each final metric: its value on the training and the test set."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(outcome.experiment.name, min_width=22)
    table.add_column("train", justify="right", min_width=10)
    table.add_column("test", justify="right", min_width=10)
    for name, value in outcome.train.items():
        table.add_row(name, f"{value:.4g}", f"{outcome.test[name]:.4g}")
    return table


def gradients_table(outcome: Outcome) -> Table:
    """Return a row for each fact about the gradients: steps, clipping, norms."""
    records = outcome.records
    first_nonfinite = outcome.first_nonfinite_loss
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 2))
    table.add_column(min_width=22)
    table.add_column(overflow="fold")
    for fact, value in {
        "steps": str(len(records.steps)),
        "clipping": outcome.experiment.clipping,
        "clipped": f"{records.clip_fraction:.1%} of steps",
        "total norm before": _totals(records),
        "non-finite steps": str(records.nonfinite.sum()),
        "non-finite loss": (
            "never" if first_nonfinite is None else f"from step {first_nonfinite}"
        ),
        "events": str(outcome.run_dir),
    }.items():
        table.add_row(fact, value)
    return table


def _totals(records: Records) -> str:
    """Return the first, the median and the largest of the finite totals, in words."""
    totals = records.total_before[np.isfinite(records.total_before)]
    if not len(totals):
        return "never finite"
    return (
        f"{totals[0]:.4g} first, {np.median(totals):.4g} median, "
        f"{totals.max():.4g} largest"
    )
