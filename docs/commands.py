"""A hook of MkDocs: `cli.md` gets the help of every command, as it is when built."""

import typer
from mkdocs.structure.pages import Page
from typer.cli import get_docs_for_click

from gradguard.cli import app

PAGE = "cli.md"


def on_page_markdown(markdown: str, *, page: Page, **_: object) -> str:
    """Return the page's own text, with the reference behind it if it is `cli.md`."""
    if page.file.src_uri != PAGE:
        return markdown
    command = typer.main.get_command(app)
    context = command.make_context("gradguard", [], resilient_parsing=True)
    reference = get_docs_for_click(obj=command, ctx=context, indent=1, name="gradguard")
    return f"{markdown}\n{reference}"
