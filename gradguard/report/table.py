"""Runs in, verdicts, tables and findings for a terminal out."""

from collections.abc import Iterator

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gradguard.health.finding import Finding, Severity
from gradguard.health.telling import cause_lines
from gradguard.health.verdict import Verdict
from gradguard.report import words
from gradguard.report.facts import parameter_facts
from gradguard.report.overview import overview, shown_one_by_one
from gradguard.report.runs import Found, Run
from gradguard.report.view import View

# Room for "total before, largest", and for one run beside it.
_FACT, _RUN = 25, 17

# Where the text of a finding begins.
_TEXT = 2 + len("warning") + 1

_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def print_report(
    found: Found, console: Console, *, view: View, by_layer: bool, full: bool
) -> None:
    """Print what is wrong with each run, worst first, and the facts; of many a line each.

    Args:
        found: The runs, and what was left out.
        console: Where to.
        view: Steps and parameters of the tables by layer.
        by_layer: Whether to print those.
        full: Whether to print everything of each run, however many there are.
    """
    if shown_one_by_one(found.runs) or full or by_layer:
        _print_each(found.runs, console, view=view, by_layer=by_layer, full=full)
    else:
        overview(found.runs, console)
    for sentence in words.left_out(found):
        console.print(Text(sentence), style="dim")


def _print_each(
    runs: list[Run], console: Console, *, view: View, by_layer: bool, full: bool
) -> None:
    for run in runs:
        console.print(Text(run.label, style="bold"))
        print_verdict(run.verdict, console)
        for sentence in words.history(run):
            console.print(Padding(Text(sentence, style="dim"), (0, 0, 0, 2)))
        console.print()
    abreast = max(1, (console.width - _FACT) // _RUN)
    for start in range(0, len(runs), abreast):
        console.print(facts_table(runs[start : start + abreast], width=console.width))
    for run in runs if full or by_layer else []:
        console.print(Text(run.label, style="bold"))
        if by_layer:
            console.print(*layers_tables(run, view))
        if full:
            console.print(health(run), crop=False)


def print_verdict(verdict: Verdict, console: Console) -> None:
    """Print a verdict whole: each cause with what to do, and what belongs to it."""
    if not verdict.worst:
        console.print(Padding(Text(verdict.text, style="green"), (0, 0, 0, 2)))
    for cause in verdict.causes:
        for number, line in enumerate(cause_lines(cause, width=console.width - 2)):
            text = Text(f"  {line}")
            if not number:
                text.stylize(_STYLES[cause.severity], 2, 2 + len(cause.severity))
            # A line to copy stays one, however wide it is; the others fit.
            console.print(text, soft_wrap=True)


def facts_table(runs: list[Run], *, width: int) -> Table:
    """Return facts as rows and runs as columns; no name is cut inside a word."""
    column = max(8, (width - _FACT) // len(runs) - 2)
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("run", no_wrap=True)  # a minimum is forgotten where it is narrow
    for run in runs:
        table.add_column(Text(words.folded(run.label, column)), overflow="fold")
    for fact, values in words.fact_rows(runs).items():
        table.add_row(fact, *(Text(words.folded(value, column)) for value in values))
    return table


def layers_tables(run: Run, view: View) -> list[Table]:
    """Return norms before clipping by parameter, and mean |g| where that is known."""
    rows = parameter_facts(run.recording, view)
    tables = [_by_layer("norm before", words.NORM_HEADS)]
    for row in rows:
        tables[0].add_row(Text(row.name), *words.norm_cells(row))
    if words.has_mean_abs(rows):
        tables.append(_by_layer("mean |g| after, by epoch", words.MEAN_ABS_HEADS))
        for row in rows:
            tables[1].add_row(Text(row.name), *words.mean_abs_cells(row))
    return tables


def health(run: Run) -> Group:
    """Return what is the matter with a run, what it leaves out, and its threshold."""
    return Group(
        *(line for finding in run.findings for line in _with_command(finding)),
        *([] if run.findings else [Padding("Nothing found.", (0, 0, 0, 2))]),
        *(
            Padding(Text(sentence, style="dim"), (0, 0, 0, 2))
            for sentence in words.history(run)
        ),
        Padding(Text(words.suggested(run)), (0, 0, 1, 2)),
    )


def _with_command(finding: Finding) -> Iterator[RenderableType]:
    """Yield a finding with its advice, and the line to copy, whole however long it is."""
    yield finding_lines(finding.severity, f"{finding} {finding.advice}")
    if finding.command:
        indent = " " * _TEXT
        yield Text(indent + finding.command, "dim", no_wrap=True, overflow="ignore")


def finding_lines(severity: Severity, text: str) -> Padding:
    """Return a finding as a hanging paragraph behind how bad it is."""
    lines = Table.grid(padding=(0, 1, 0, 0))
    lines.add_column(min_width=len("warning"), style=_STYLES[severity])
    lines.add_column(overflow="fold")
    lines.add_row(severity, Text(text))
    return Padding(lines, (0, 0, 0, 2))


def _by_layer(title: str, heads: tuple[str, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(title, overflow="fold")
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    return table
