"""One report from options to output: check them, read, print, write."""

from collections.abc import Sequence
from pathlib import Path

from gradguard.output import PICTURES, plain_console, writable
from gradguard.report.document import document
from gradguard.report.runs import Found, find_runs
from gradguard.report.table import print_report
from gradguard.report.view import View, view


def report(
    paths: Sequence[str | Path],
    *,
    as_json: bool = False,
    html: str | None = None,
    figure: str | None = None,
    interactive: bool = False,
    typed: str = "",
    by_layer: bool = False,
    full: bool = False,
    steps: str | None = None,
    parameters: str | None = None,
) -> None:
    """Print what the gradients of the runs at or below the paths did.

    Args:
        paths: Directories of runs, or ones above them; URLs, too.
        as_json: Whether to print JSON in place of tables.
        html: File of the page, if one is
        figure: File of the picture, if one is
        interactive: Whether the pictures of the page can be explored.
        typed: The command that asks for it, for the page to tell.
        by_layer: Whether to print tables by layer.
        full: Whether to print every finding whole, and everything of each of many runs.
        steps: Steps in view, as "40" or "40:100".
        parameters: Parameters in view, a regular expression.

    Raises:
        ConfigError: If an option or a path is wrong; nothing has been printed then.
    """
    shown = view(steps=steps, parameters=parameters)
    page_file = writable(html, option="--html", suffixes=(".html", ".htm"))
    figure_file = writable(figure, option="--figure", suffixes=PICTURES)
    found = find_runs(paths)
    _require_in_view(found, shown)
    if figure_file:
        from gradguard.report.picture import draw  # noqa: PLC0415 (matplotlib is heavy)

        draw(found.runs, figure_file, view=shown)
    if page_file:
        from gradguard.report.page import page  # noqa: PLC0415 (it is 5 MB)

        # A name on disk may be no text; the page says so in Python's escapes.
        page_file.write_text(
            page(found, view=shown, command=typed, interactive=interactive),
            encoding="utf-8",
            errors="backslashreplace",
        )
    if as_json:
        print(document(found, view=shown))  # noqa: T201 (the console would wrap it)
    else:
        console = plain_console()
        print_report(found, console, view=shown, by_layer=by_layer, full=full)
    _say_where([file for file in (page_file, figure_file) if file])


def _require_in_view(found: Found, shown: View) -> None:
    for run in found.runs:
        shown.names(shown.rows(run.recording).records.names)


def _say_where(files: list[Path]) -> None:
    """Say on stderr what was written: stdout may be JSON for another program."""
    console = plain_console(stderr=True)
    for file in files:
        console.print(f"wrote {file}", soft_wrap=True)
