"""Many runs in, one line each out, worst first."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gradguard.report import words
from gradguard.report.runs import Run

# More runs than that are told in a line each.
_FEW = 3

# Columns beside the name of a run: how bad, what, since when, how often clipped.
_BESIDE = 48
_NARROWEST_NAME = 16

_STYLES = {"error": "bold red", "warning": "yellow", None: "green"}
_WORST_FIRST = ("error", "warning", None)


def shown_one_by_one(runs: list[Run]) -> bool:
    """Whether there are so few runs that everything of each can be told."""
    return len(runs) <= _FEW


def ranked(runs: list[Run]) -> list[Run]:
    """Return the runs, worst first; of equally bad ones, the first to turn bad."""

    def badness(run: Run) -> tuple[int, float]:
        worst = run.verdict.worst
        step = worst.step if worst and worst.step is not None else float("inf")
        return _WORST_FIRST.index(run.verdict.severity), step

    return sorted(runs, key=badness)


def count_of_bad(runs: list[Run]) -> str:
    """Return how many runs have errors, or else warnings, in a sentence.

    Examples:
        >>> count_of_bad([])
        'Nothing found in 0 runs.'
    """
    severities = [run.verdict.severity for run in runs]
    for severity in ("error", "warning"):
        count = severities.count(severity)
        if count:
            verb = "has" if count == 1 else "have"
            return f"{count} of {len(runs)} runs {verb} {severity}s."
    return f"Nothing found in {len(runs)} runs."


def overview(runs: list[Run], console: Console) -> None:
    """Print how many runs are bad, and a line for each run."""
    console.print(Text(count_of_bad(runs), style="bold"))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("")
    width = max(_NARROWEST_NAME, console.width - _BESIDE)
    table.add_column("run", overflow="fold")
    table.add_column("verdict", no_wrap=True)
    table.add_column("since step", justify="right", no_wrap=True)
    table.add_column("clipped", justify="right", no_wrap=True)
    labels = words.short_labels(runs)
    for run in ranked(runs):
        severity, worst = run.verdict.severity, run.verdict.worst
        table.add_row(
            Text(severity or "ok", style=_STYLES[severity]),
            Text(words.folded(labels[run], width)),
            worst.kind if worst else "nothing found",
            "" if worst is None or worst.step is None else str(worst.step),
            f"{run.recording.records.clip_fraction:.0%}",
        )
    console.print(table)
    console.print(Text("Of one run: gradguard report RUN; of all: --full.", "dim"))
