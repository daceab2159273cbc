"""The documents: what is in code on a page, and tables that tests hold to what they run."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from tests.support import ROOT

DOCS = ROOT / "docs"
MODES = DOCS / "modes.md"

_BLOCK = re.compile(
    r'^```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```\n'
    r"(?:\n```text\n(?P<printed>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """What stands between fences.

    Attributes:
        language: The word behind the fence.
        title: The file it is to be saved as; empty for none.
        text: The lines in between.
        printed: The block of text that follows at once: what it prints; None for none.
    """

    language: str
    title: str
    text: str
    printed: str | None


def blocks(page: str) -> list[Block]:
    """Return the code of a page, which is named relative to docs/, in its order."""
    found = _BLOCK.finditer((DOCS / page).read_text())
    return [
        Block(one["language"], one["title"] or "", one["text"], one["printed"])
        for one in found
    ]


def pages() -> list[str]:
    """Return every page, relative to docs/."""
    return sorted(str(file.relative_to(DOCS)) for file in DOCS.rglob("*.md"))


def public_modules() -> set[str]:
    """Return what CONTRIBUTING.md lists as open to others."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    section = text.split("What others may import", 1)[1].split("\n\n", 2)[1]
    return set(re.findall(r"`([\w.]+)`", section))


def rows_below(heading: str) -> Iterator[str]:
    """Yield the names of rows, which stand in code at the start of a table's cell."""
    _, section = MODES.read_text().split(f"## {heading}\n", 1)
    table = section.split("\n## ", 1)[0]
    return (match[1] for match in re.finditer(r"\| `([\w-]+)`(?= \|)", table))
