"""Tables of the documents, which tests hold to what they run."""

import re
from collections.abc import Iterator

from tests.support import ROOT

MODES = ROOT / "docs/modes.md"


def rows_below(heading: str) -> Iterator[str]:
    """Yield the names of rows, which stand in code at the start of a table's cell."""
    _, section = MODES.read_text().split(f"## {heading}\n", 1)
    table = section.split("\n## ", 1)[0]
    return (match[1] for match in re.finditer(r"\| `([\w-]+)`(?= \|)", table))
