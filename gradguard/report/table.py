"""Runs in, tables and findings for a terminal out."""

from collections.abc import Iterator

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gradguard.health.finding import Finding, Severity
from gradguard.report import words
from gradguard.report.facts import parameter_facts
from gradguard.report.runs import Found, Run
from gradguard.report.view import View

# Room for "total before, largest", and for one run beside it.
_FACT, _RUN = 25, 17

# Where the text of a finding begins.
_TEXT = 2 + len("warning") + 1

_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def print_report(found: Found, console: Console, *, view: View, by_layer: bool) -> None:
    """Print facts, run beside run, and below them what is the matter with each.

    Args:
        found: The runs, and what was left out.
        console: Where to.
        view: Steps and parameters of the tables by layer.
        by_layer: Whether to print those.
    """
    abreast = max(1, (console.width - _FACT) // _RUN)
    for start in range(0, len(found.runs), abreast):
        console.print(facts_table(found.runs[start : start + abreast]))
    for run in found.runs:
        console.print(Text(run.label, style="bold"))
        if by_layer:
            console.print(*layers_tables(run, view))
        console.print(health(run), crop=False)
    for sentence in words.left_out(found):
        console.print(Text(sentence), style="dim")


def facts_table(runs: list[Run]) -> Table:
    """Return facts as rows and runs as columns."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("run", no_wrap=True)  # a minimum is forgotten where it is narrow
    for run in runs:
        table.add_column(Text(run.label.replace("/", "/\n")), overflow="fold")
    for fact, values in words.fact_rows(runs).items():
        table.add_row(fact, *map(Text, values))
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
