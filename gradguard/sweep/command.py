"""One sweep from options to output: check them, run, print, draw."""

from collections.abc import Sequence

from gradguard.errors import ConfigError
from gradguard.output import PICTURES, plain_console, writable
from gradguard.sweep.cells import varied
from gradguard.sweep.grid import Cell
from gradguard.sweep.runner import run_cells
from gradguard.sweep.table import document, print_sweep


def sweep(
    cells: Sequence[Cell],
    *,
    jobs: int = 1,
    keep_runs: bool = False,
    as_json: bool = False,
    figure: str | None = None,
) -> int:
    """Run the cells, print what came of them, and return how many runs failed.

    Args:
        cells: What to run.
        jobs: Runs at a time.
        keep_runs: Whether events and checkpoints stay.
        as_json: Whether to print JSON in place of a table.
        figure: File of the picture, if one is wanted.

    Raises:
        ConfigError: If an option or a setting is wrong, before anything has run.
        Interrupted: If Ctrl-C ended the sweep.
    """
    file = writable(figure, option="--figure", suffixes=PICTURES)
    if file and not varied(cells):
        raise ConfigError("--figure needs a setting with several values")
    stderr = plain_console(stderr=True)
    ended = run_cells(cells, jobs=jobs, keep_runs=keep_runs, console=stderr)
    if as_json:
        print(document(ended))  # noqa: T201 (the console would wrap it)
    else:
        print_sweep(ended, plain_console())
    if file:
        from gradguard.sweep.picture import draw  # noqa: PLC0415 (matplotlib is heavy)

        draw(ended.summaries, file)
        stderr.print(f"wrote {file}", soft_wrap=True)
    for failure in ended.failures:
        stderr.print(f"gradguard: {failure}", soft_wrap=True)
    return len(ended.failures)
