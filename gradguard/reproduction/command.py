"""Run studies in parallel, write their page, print a summary."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from gradguard.errors import ConfigError, Interrupted
from gradguard.output import plain_console, runs_bar
from gradguard.reproduction.judge import left, verdict
from gradguard.reproduction.page import Settings, markdown
from gradguard.reproduction.study import Results, Study, TrialResult
from gradguard.reproduction.work import Task, run_all, tasks_of

_PAGE = "README.md"
_DPI = 85  # a picture of 20 to 70 kB


def reproduce(studies: Sequence[Study], settings: Settings, *, jobs: int) -> list[str]:
    """Run the studies, write the page, print a summary; return what went wrong.

    Bands that were left, and runs that ended without a result: a sentence each.

    Args:
        studies: What to run.
        settings: How, and where the page goes.
        jobs: Processes at a time.

    Raises:
        ConfigError: If the page cannot be written there, before anything has run.
        Interrupted: If Ctrl-C ended it, after what was finished is on the page.
    """
    _make(settings.output)
    wanted = {
        study.name: tasks_of(study, seeds=settings.seeds, quick=settings.quick)
        for study in studies
    }
    tasks = list(dict.fromkeys(t for mine in wanted.values() for t in mine.values()))
    runs, failures = _run(tasks, jobs=jobs)
    finished = {
        name: _results(mine, runs)
        for name, mine in wanted.items()
        if set(mine.values()) <= set(runs)
    }
    page = _write(studies, finished, settings)
    _show(studies, finished)
    if len(runs) + len(failures) < len(tasks):
        raise Interrupted(
            f"interrupted after {len(runs)} of {len(tasks)} runs; what was finished is "
            f"in {page}"
        )
    plain_console().print(f"\n{page}", soft_wrap=True)
    return failures + [
        sentence
        for study in studies
        if study.name in finished
        for sentence in left(study, finished[study.name])
    ]


def _make(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / _PAGE).touch()
    except OSError as error:
        raise ConfigError(
            f"--output {shlex.quote(str(output))} cannot be written: {error.strerror}"
        ) from None


def _run(
    tasks: Sequence[Task], *, jobs: int
) -> tuple[dict[Task, TrialResult], list[str]]:
    """Run the tasks until the last or Ctrl-C; return their results and what failed."""
    runs: dict[Task, TrialResult] = {}
    failures: list[str] = []
    with runs_bar(plain_console(stderr=True)) as bar:
        progress = bar.add_task("", total=len(tasks))
        try:
            for task, run in run_all(tasks, jobs=jobs):
                if isinstance(run, Exception):
                    failures.append(f"a run of seed {task.seed} failed: {run}")
                else:
                    runs[task] = run
                bar.advance(progress)
        except KeyboardInterrupt:
            bar.stop()
    return runs, failures


def _results(
    tasks: dict[tuple[str, int], Task], runs: dict[Task, TrialResult]
) -> Results:
    results: dict[str, dict[int, TrialResult]] = {}
    for (label, seed), task in tasks.items():
        results.setdefault(label, {})[seed] = runs[task]
    return results


def _write(
    studies: Sequence[Study], finished: dict[str, Results], settings: Settings
) -> Path:
    for study in studies:
        if study.name in finished:
            figure = study.figure(finished[study.name])
            figure.savefig(settings.output / f"{study.name}.png", dpi=_DPI)
    page = settings.output / _PAGE
    page.write_text(markdown(studies, finished, settings), encoding="utf-8")
    return page


def _show(studies: Sequence[Study], finished: dict[str, Results]) -> None:
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("experiment", "claim", "holds", "our bands"):
        table.add_column(heading)
    for study in studies:
        if study.name in finished:
            results = finished[study.name]
            outside = len(left(study, results))
            bands = f"{outside} left" if outside else "hold" if study.bands else ""
            table.add_row(study.name, study.title, verdict(study, results), bands)
    if table.rows:
        plain_console().print(table)
