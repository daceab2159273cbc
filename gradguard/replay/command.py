"""One replay from options to output: check them, run the step, print, write a page."""

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gradguard.output import as_json, plain_console, runs_bar, writable
from gradguard.replay.again import replay
from gradguard.replay.replayed import Replayed
from gradguard.replay.words import lines

_STYLES = {"broke": "bold red", "again": "bold", "try": "cyan", "note": "yellow"}


def command(
    dump: str,
    *,
    module: str | None = None,
    arguments: Iterable[str] = (),
    trust: bool = False,
    json: bool = False,
    html: str | None = None,
) -> None:
    """Run a bad step again, and say what broke it.

    Args:
        dump: The file.
        module: Class of the module, where it is not the dump's.
        arguments: For its constructor, "depth=30".
        trust: Whether the dump may run code.
        json: Whether to print JSON in place of sentences.
        html: File of the page, if one is wanted.

    Raises:
        ConfigError: If an option is wrong, the dump cannot be read or nothing fits it.
    """
    file = writable(html, option="--html", suffixes=(".html", ".htm"))
    bar = runs_bar(plain_console(stderr=True))
    with bar:
        task = bar.add_task("", total=None)
        replayed = replay(
            dump,
            module,
            arguments=arguments,
            trust=trust,
            progress=lambda: bar.advance(task),
        )
    if file:
        from gradguard.replay.page import page  # noqa: PLC0415 (jinja2 takes its time)

        file.write_text(page(replayed), encoding="utf-8", errors="backslashreplace")
    if json:
        print(as_json(replayed.document(), indent=2))  # noqa: T201 (the console would wrap it)
    else:
        print_replayed(replayed, plain_console())
    if file:
        plain_console(stderr=True).print(f"wrote {file}", soft_wrap=True)


def print_replayed(replayed: Replayed, console: Console) -> None:
    """Print a heading and a sentence a line, wrapped beside the headings."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for heading, sentence in lines(replayed):
        style = _STYLES.get(heading, "")
        table.add_row(Text(heading, style=style or "dim"), Text(sentence, style=style))
    console.print(table)
