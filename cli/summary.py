"""The tables that `gradguard train` ends with, at most 80 columns wide."""

import shlex
from dataclasses import replace

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from gradguard.cli.options import typed
from gradguard.experiments.run import Outcome
from gradguard.health.verdict import Cause, Verdict, verdict
from gradguard.records.records import Records
from gradguard.report.table import print_verdict


def show(outcome: Outcome, console: Console) -> None:
    """Print the verdict, metrics, gradients, and the commands that show the run."""
    print_verdict(_as_typed(verdict(outcome.recording)), console)
    console.print(metrics_table(outcome))
    console.print(gradients_table(outcome))
    commands = (
        f"gradguard report {shlex.quote(str(outcome.run_dir))}",
        f"tensorboard --logdir {shlex.quote(outcome.experiment.log_dir)}",
    )
    # Wrapped by the terminal, not by us: they have to survive copy and paste.
    console.print("", *commands, sep="\n", soft_wrap=True)


def _as_typed(said: Verdict) -> Verdict:
    """Return the verdict with commands in place of code: whoever types, edits none."""
    return replace(said, causes=tuple(map(_cause_as_typed, said.causes)))


def _cause_as_typed(cause: Cause) -> Cause:
    if cause.max_norm is not None:
        option = f"--clip-norm {cause.max_norm:g}"
    elif cause.kind == "nonfinite-gradient":
        option = "--on-nonfinite skip"
    else:
        return cause
    name, _ = option.split()
    return replace(cause, do=f"{typed(without=name)} {option}")


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
    nonfinite, loss = int(records.nonfinite.sum()), outcome.first_nonfinite_loss
    clipping = outcome.experiment.clipping
    facts = {
        "steps": str(len(records.steps)),
        "clipping": clipping,
        "clipped": f"{records.clip_fraction:.1%} of steps" * (clipping != "none"),
        "total norm before": _totals(records),
        "non-finite steps": str(nonfinite or ""),
        "non-finite loss": "" if loss is None else f"from step {loss}",
        "events": str(outcome.run_dir),
    }
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 2))
    table.add_column(min_width=22)
    table.add_column(overflow="fold")
    for fact, value in facts.items():
        if value:
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
