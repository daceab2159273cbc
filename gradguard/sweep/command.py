"""One sweep from options to output: check them, run, print, draw."""

from collections.abc import Sequence
from typing import NamedTuple

from rich.console import Console

from gradguard.errors import ConfigError
from gradguard.output import PICTURES, writable
from gradguard.sweep.cells import varied
from gradguard.sweep.grid import Cell
from gradguard.sweep.runner import run_cells
from gradguard.sweep.table import document, print_sweep


class Wanted(NamedTuple):
    """What a sweep should come to.

    Attributes:
        jobs: Runs at a time.
        keep_runs: Whether events and checkpoints stay.
        as_json: Whether to print JSON in place of a table.
        figure: File of the picture, if one is wanted.
    """

    jobs: int = 1
    keep_runs: bool = False
    as_json: bool = False
    figure: str | None = None


def sweep(cells: Sequence[Cell], wanted: Wanted) -> int:
    """Run the cells, print what came of them, and return how many runs failed.

    Raises:
        ConfigError: If an option or a setting is wrong, before anything has run.
        Interrupted: If Ctrl-C ended the sweep.
    """
    figure = writable(wanted.figure, option="--figure", suffixes=PICTURES)
    if figure and not varied(cells):
        raise ConfigError("--figure needs a setting with several values")
    stderr = Console(stderr=True, markup=False, highlight=False)
    sweep = run_cells(
        cells, jobs=wanted.jobs, keep_runs=wanted.keep_runs, console=stderr
    )
    if wanted.as_json:
        print(document(sweep))  # noqa: T201 (the console would wrap it)
    else:
        print_sweep(sweep, Console(markup=False, highlight=False))
    if figure:
        from gradguard.sweep.picture import draw  # noqa: PLC0415 (matplotlib is heavy)

        draw(sweep.summaries, figure)
        stderr.print(f"wrote {figure}", soft_wrap=True)
    for failure in sweep.failures:
        stderr.print(f"gradguard: {failure}", soft_wrap=True)
    return len(sweep.failures)
