"""docs/checklist.md answers all 66 questions, with what is there."""

import re
import shlex
from typing import get_args

import pytest
import typer

from gradguard.cli import app
from gradguard.experiments.resolve import bundled
from gradguard.health.finding import Kind
from gradguard.reproduction.studies import STUDIES
from tests.support import ROOT

DOCS = ROOT / "docs"
TEXT = (DOCS / "checklist.md").read_text()
ROWS = re.findall(r"^\| (\d+) \|.*\| (.*) \|$", TEXT, re.MULTILINE)
ANSWERS = dict.fromkeys(
    code for _, answer in ROWS for code in re.findall("`([^`]+)`", answer)
)
COMMANDS = [answer for answer in ANSWERS if answer.startswith("gradguard ")]
TESTS = [answer for answer in ANSWERS if answer.startswith("tests/")]


def test_all_questions_are_there_once_each_with_an_answer() -> None:
    assert [int(number) for number, _ in ROWS] == list(range(1, 67))
    assert all(re.search(r"`|\]\(", answer) for _, answer in ROWS)


def test_every_other_answer_is_a_finding() -> None:
    findings = set(ANSWERS) - {*COMMANDS, *TESTS}

    assert findings <= set(get_args(Kind))


@pytest.mark.parametrize("name", TESTS)
def test_named_test_is_there(name: str) -> None:
    file, function = name.split("::")

    assert f"def {function}(" in (DOCS.parent / file).read_text()


@pytest.mark.parametrize("line", COMMANDS)
def test_named_command_is_there(line: str) -> None:
    _, name, *words = shlex.split(line)
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]  # a group

    # Parsed alone: it is not run, so that nothing is trained.
    given = command.make_context(name, words).params

    assert given.get("config") in {None, *bundled()}
    if name == "reproduce":
        assert set(given["names"] or ()) <= set(STUDIES)


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)]+)\)", TEXT))
def test_link_resolves(link: str) -> None:
    file, _, anchor = link.partition("#")
    page = (DOCS / (file or "checklist.md")).read_text()
    headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)

    assert anchor in {"", *map(anchored, headings)}


def anchored(heading: str) -> str:
    """Return what a link to the heading ends in, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
