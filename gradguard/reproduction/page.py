"""The page: a table of all claims, then a section for each."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from gradguard import __version__
from gradguard.health.finding import Finding
from gradguard.reproduction.headings import HEADINGS
from gradguard.reproduction.judge import against, left, spread, verdict
from gradguard.reproduction.study import Results, Study

_PACKAGES = ("torch", "lightning", "numpy", "scikit-learn")


@dataclass(frozen=True)
class Settings:
    """The options of the run that made a page.

    Attributes:
        names: The studies that were asked for; none for all.
        quick: Whether slow trials were left out.
        seeds: How many seeds each trial was run with.
        output: Directory of the page.
    """

    names: tuple[str, ...]
    quick: bool
    seeds: int
    output: Path

    @property
    def command(self) -> str:
        """The command line that makes the page again."""
        words = ["gradguard", "reproduce", *self.names, *["--quick"] * self.quick]
        return " ".join([*words, "--seeds", str(self.seeds)])


def markdown(
    studies: Sequence[Study], finished: Mapping[str, Results], settings: Settings
) -> str:
    """Return the page as GitHub renders it.

    Args:
        studies: What was asked for, finished or not.
        finished: Results by the name of their study.
        settings: How it was run.
    """
    done = [study for study in studies if study.name in finished]
    lines = [*_head(settings), *_missing(finished, studies), *_summary(done, finished)]
    for study in done:
        lines += _section(study, finished[study.name], seeds=settings.seeds)
    return "\n".join(lines) + "\n"


def _head(settings: Settings) -> list[str]:
    versions = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    length = (
        "Quick: fewer seeds, and the slower rows left out."
        if settings.quick
        else "Full: every row."
    )
    return [
        "# What the documents claim, and what comes out",
        "",
        "    " + settings.command,
        "",
        f"gradguard {__version__} with {versions}, Python {platform.python_version()}. "
        f"{length} Seeds: {', '.join(map(str, range(settings.seeds)))}.",
        "",
        "Numbers are the median [min, max] over the seeds. A claim holds if it does in "
        "every seed. A band is our own earlier measurement over 20 to 100 seeds, with a "
        "margin: leaving it would mean that something here has changed.",
        "",
    ]


def _missing(finished: Mapping[str, Results], studies: Sequence[Study]) -> list[str]:
    names = [f"`{study.name}`" for study in studies if study.name not in finished]
    return [f"Not finished: {', '.join(names)}.", ""] if names else []


def _summary(studies: Sequence[Study], finished: Mapping[str, Results]) -> list[str]:
    rows = [("Experiment", "Document", "Claim", "Holds?", "Our bands")]
    for study in studies:
        results = finished[study.name]
        rows.append(
            (
                f"[{study.name}](#{study.name})",
                study.document.author,
                study.claim,
                verdict(study, results),
                _bands_in_words(study, results),
            )
        )
    return [*_table(rows), ""]


def _bands_in_words(study: Study, results: Results) -> str:
    if not study.bands:
        return "none"
    num_left = len(left(study, results))
    return f"{num_left} left" if num_left else f"all {len(study.bands)} hold"


def _section(study: Study, results: Results, *, seeds: int) -> list[str]:
    return [
        f"## {study.name}",
        "",
        f"> {study.claim}",
        ">",
        f"> {study.document}",
        "",
        f"**{_capitalised(verdict(study, results))}.** "
        f"{' '.join([*against(study, results), study.reading])}",
        "",
        f"![{study.name}]({study.name}.png)",
        "",
        *_results_table(study, results),
        "",
        *_bands(study, results),
        *_findings(results),
        *_commands(study, results, seeds=seeds),
    ]


def _results_table(study: Study, results: Results) -> list[str]:
    rows = [("", *(HEADINGS[number] for number in study.numbers))]
    for label in results:
        values = (spread(results, trial=label, number=n) for n in study.numbers)
        rows.append((label, *values))
    return _table(rows)


def _bands(study: Study, results: Results) -> list[str]:
    if not study.bands:
        return []
    rows = [("Our bands", "", "", "measured")]
    for band in study.bands:
        value = spread(results, trial=band.trial, number=band.number)
        rows.append((band.trial, HEADINGS[band.number], band.range, value))
    outside = [f"- **Left:** {sentence}" for sentence in left(study, results)]
    return [*_table(rows), "", *outside, *[""] * bool(outside)]


def _findings(results: Results) -> list[str]:
    """Return the worst finding of each trial's first seed, alike ones together."""
    labels: dict[str, list[str]] = {}
    for label, runs in results.items():
        if runs[0].recording is not None:
            labels.setdefault(_worst(runs[0].findings), []).append(label)
    found = [f"- {'; '.join(alike)}: {text}" for text, alike in labels.items()]
    return ["What gradguard says of seed 0:", "", *found, ""] if found else []


def _worst(findings: Sequence[Finding]) -> str:
    if not findings:
        return "nothing."
    worst = findings[0]
    return f"**{worst.kind}** ({worst.severity}). {worst.text}"


def _commands(study: Study, results: Results, *, seeds: int) -> list[str]:
    trained = [t.command for t in study.trials if t.label in results and t.command]
    if not trained:
        return []
    last = f" to {seeds - 1}" * (seeds > 1)
    return [
        f"To repeat a row, with `--seed 0`{last}:",
        "",
        "```sh",
        *dict.fromkeys(trained),
        "```",
        "",
    ]


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    head, *body = [f"| {' | '.join(row)} |" for row in rows]
    return [head, "|" + " --- |" * len(rows[0]), *body]


def _capitalised(answer: str) -> str:
    return {"yes": "It holds", "no": "It does not hold"}.get(
        answer, f"It holds {answer}"
    )
