"""The results of a sweep, as a table of at most 80 columns and as JSON."""

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from gradguard.output import as_json
from gradguard.sweep.cells import Spread, headline, names, varied
from gradguard.sweep.grid import shown
from gradguard.sweep.runner import Sweep

_SMALL, _THOUSAND, _LARGE = 1e-2, 1e3, 1e6  # where the writing of a number changes


def print_sweep(sweep: Sweep, console: Console) -> None:
    """Print a row for each cell, and below which runs the numbers are of."""
    console.print(table(sweep))
    console.print(_legend(sweep))


def table(sweep: Sweep) -> Table:
    """Return a table of swept values, metrics, clipping, stuck units, diverged runs."""
    columns = varied([one.cell for one in sweep.summaries])
    metric = headline(sweep.summaries)
    units = _all_units(sweep)
    found = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in columns:
        found.add_column(
            label(name).replace(" ", "\n"), justify="right", overflow="fold"
        )
    for part in ("train", "test"):
        found.add_column(f"{part} {metric}", justify="right", overflow="fold")
    for name in ("clipped", *units, "diverged"):
        found.add_column(name, justify="right")
    for summary in sweep.summaries:
        found.add_row(
            *(shown(summary.cell.values[name]) for name in columns),
            *(_spread(summary.spread(part, metric)) for part in ("train", "test")),
            _share(summary.clip_fraction),
            *(_share(summary.spread("units", name)) for name in units),
            f"{summary.diverged}/{len(summary.results)}",
        )
    return found


def document(sweep: Sweep) -> str:
    """Return the sweep as one JSON document: what the table shows and more."""
    content: dict[str, Any] = {
        "reused": sweep.reused,
        "failures": list(sweep.failures),
        "cells": [summary.as_json() for summary in sweep.summaries],
    }
    return as_json(content, indent=2)


def label(name: str) -> str:
    """Return the last part of a setting's name, as "width" of "model.width"."""
    return name.rpartition(".")[2].replace("_", " ")


def _all_units(sweep: Sweep) -> list[str]:
    kinds = [name for summary in sweep.summaries for name in names(summary, "units")]
    return list(dict.fromkeys(kinds))


def _legend(sweep: Sweep) -> str:
    first = sweep.summaries[0]
    runs = sum(len(summary.results) for summary in sweep.summaries)
    constant = [
        f"{label(name)} {shown(value)}"
        for name, value in first.cell.values.items()
        if name not in varied([one.cell for one in sweep.summaries])
    ]
    about = ", ".join([first.cell.experiments[0].name, *constant])
    again = f", {sweep.reused} of them from before" if sweep.reused else ""
    return (
        f"{about}: {_counted(runs, 'run')}{again}. Median [smallest, largest] over "
        f"{_counted(len(first.results), 'seed')}, of the runs that did not diverge."
    )


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    if spread.min == spread.max:
        return _number(spread.median)
    return f"{_number(spread.median)} [{_number(spread.min)}, {_number(spread.max)}]"


def _number(value: float) -> str:
    """Write a number with two or more significant digits, in at most seven characters.

    Examples:
        >>> [_number(value) for value in (0.00057, 0.123, 2.5, 20390.0, 1.5e7)]
        ['5.7e-4', '0.123', '2.5', '20390', '1.5e7']
    """
    size = abs(value)
    if size == 0 or _SMALL <= size < _THOUSAND:
        return f"{value:.3g}"
    if _THOUSAND <= size < _LARGE:
        return f"{value:.0f}"
    digits, _, exponent = f"{value:.1e}".partition("e")
    return f"{digits}e{int(exponent)}"


def _share(spread: Spread | None) -> str:
    return "-" if spread is None else f"{spread.median:.0%}"
