"""The pages below docs/ run as they stand, and leave out nothing."""

import re
from pathlib import Path
from typing import get_args

import pytest

import gradguard as package
from gradguard.health.diagnosis import diagnose
from gradguard.health.finding import Finding, Kind
from gradguard.tensorboard.reader import read_recordings
from tests.support.command_line import Call
from tests.support.documents import DOCS, blocks, pages, public_modules
from tests.support.session import Session, without_numbers

KINDS = get_args(Kind)
API = "\n".join(file.read_text() for file in DOCS.glob("api/*.md"))

# What a page is about and gradguard does not ask for.
NEEDS = {
    "howto/hydra.md": "hydra",
    "howto/lightning_cli.md": "jsonargparse",
    "howto/wandb.md": "wandb",
}


def page_of(kind: str) -> str:
    return f"findings/{kind}.md"


WITH_CODE = [
    page
    for page in pages()
    if {block.language for block in blocks(page)} & {"python", "sh"}
    and page not in map(page_of, KINDS)
]

# The pages show faults on purpose, and small runs, of which Lightning warns.
quietly = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gradguard: Call
) -> Session:
    monkeypatch.chdir(tmp_path)
    return Session(gradguard)


@quietly
@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_CODE)
def test_page_runs_as_it_stands(page: str, session: Session) -> None:
    if page in NEEDS:
        pytest.importorskip(NEEDS[page])

    session.read(page)


@quietly
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_page_of_a_finding_shows_one(
    kind: str, session: Session, tmp_path: Path
) -> None:
    page = page_of(kind)
    [[severity, told]] = re.findall(
        r"^> \*\*(\w+)\.\*\* (.*)$", (DOCS / page).read_text(), re.MULTILINE
    )

    session.read(page)

    [found] = [finding for finding in findings_below(tmp_path) if finding.kind == kind]
    assert found.severity == severity.lower()
    assert without_numbers(f"{found.text} {found.advice}") == without_numbers(told)


def findings_below(directory: Path) -> list[Finding]:
    runs = {file.parent for file in directory.rglob("events.out.tfevents.*")}
    return [
        finding
        for run in runs
        if run.name not in ("before", "after")
        for recording in read_recordings(run).values()
        for finding in diagnose(recording)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_page_of_a_finding_says_what_it_is_by_which_rule_and_what_to_try(
    kind: str,
) -> None:
    text = (DOCS / page_of(kind)).read_text()

    assert text.startswith(f"# {kind}\n")
    assert re.findall(r"^## (.*)", text, re.MULTILINE) == [
        "What it means",
        "Rule",
        "What to try",
        "See it",
    ]


def test_every_finding_is_in_the_index_and_has_a_page() -> None:
    index = (DOCS / "health.md").read_text()
    rows = re.findall(r"^\| \[`([a-z-]+)`\]\((.*?)\) \|", index, re.MULTILINE)

    assert rows == [(kind, page_of(kind)) for kind in KINDS]
    assert {page for page in pages() if page.startswith("findings/")} == set(
        map(page_of, KINDS)
    )


@pytest.mark.parametrize("name", [*package.__all__])
def test_what_the_package_gives_is_in_the_reference(name: str) -> None:
    assert name == "__version__" or f"::: gradguard.{name}\n" in API


@pytest.mark.parametrize("module", sorted(public_modules() - {"gradguard"}))
def test_public_module_is_in_the_reference(module: str) -> None:
    assert re.search(rf"^::: {re.escape(module)}\b", API, re.MULTILINE)
