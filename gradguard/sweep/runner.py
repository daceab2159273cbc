"""Run the experiments of a sweep that have no result on disk."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from gradguard.errors import ConfigError, Interrupted
from gradguard.experiments.build import build
from gradguard.experiments.config import Experiment
from gradguard.experiments.directory import on_this_machine
from gradguard.experiments.workers import each
from gradguard.output import require_writable, runs_bar
from gradguard.sweep.cells import Summary
from gradguard.sweep.grid import Cell
from gradguard.sweep.results import Result, load, save
from gradguard.sweep.training import train


@dataclass(frozen=True)
class Sweep:
    """All cells of a sweep with what became of them.

    Attributes:
        summaries: A cell each, in the order of the grid.
        failures: What went wrong, a sentence for each run that has no result.
        reused: How many runs had ended before, and were not run again.
    """

    summaries: tuple[Summary, ...]
    failures: tuple[str, ...]
    reused: int


def run_cells(
    cells: Sequence[Cell], *, jobs: int, keep_runs: bool, console: Console
) -> Sweep:
    """Run every experiment of the cells that has no result on disk, and sum up.

    A run that diverges has a result. Results are written as they come, so that the
    same sweep goes on where it was ended.

    Args:
        cells: What to run.
        jobs: Runs at a time, each in a process and on one thread.
        keep_runs: Whether events and checkpoints stay; a result without them does not
            count as one then.
        console: Where the progress bar goes.

    Raises:
        ConfigError: If a run cannot start; where it can be told, before the first one.
        Interrupted: If Ctrl-C ended the sweep.
    """
    for cell in cells:
        _require_possible(cell.experiments[0])
    experiments = [on_this_machine(one) for cell in cells for one in cell.experiments]
    results = [_earlier(one, keep_runs=keep_runs) for one in experiments]
    left = {n: experiments[n] for n, result in enumerate(results) if result is None}
    failures = []
    try:
        endings = _endings(left, jobs=jobs, keep_runs=keep_runs)
        with runs_bar(console) as bar, closing(endings):
            task = bar.add_task("", total=len(results))
            bar.advance(task, len(results) - len(left))
            for number, ending in endings:
                bar.advance(task)
                if isinstance(ending, Result):
                    save(experiments[number], ending)
                    results[number] = ending
                else:
                    failures.append(f"{_named(cells, number)} failed: {ending}")
    except KeyboardInterrupt:
        done = sum(result is not None for result in results)
        raise Interrupted(
            f"interrupted after {done} of {len(results)} runs; the same command goes on"
        ) from None
    return Sweep(_summaries(cells, results), tuple(failures), len(results) - len(left))


def _endings(
    experiments: Mapping[int, Experiment], *, jobs: int, keep_runs: bool
) -> Generator[tuple[int, Result | Exception], None, None]:
    """Yield the number of an experiment and what became of it, first done first."""
    numbers = list(experiments)
    tasks = [one.model_dump(mode="json") for one in experiments.values()]
    with TemporaryDirectory(prefix="gradguard-") as scratch:
        do = partial(train, scratch=scratch, keep_runs=keep_runs)
        with closing(each(do, tasks, jobs=jobs)) as endings:
            for position, ending in endings:
                if isinstance(ending, ConfigError):
                    raise ending
                yield numbers[position], ending


def _require_possible(experiment: Experiment) -> None:
    if experiment.trainer.devices not in {"1", "auto"}:
        raise ConfigError(
            f"trainer.devices {experiment.trainer.devices} is not for a sweep, "
            f"whose runs have one device each"
        )
    require_writable(Path(on_this_machine(experiment).log_dir))
    build(experiment)


def _earlier(experiment: Experiment, *, keep_runs: bool) -> Result | None:
    result = load(experiment)
    if result is None or (keep_runs and not Path(result.run_dir or "").is_dir()):
        return None
    return result


def _named(cells: Sequence[Cell], number: int) -> str:
    seeds = len(cells[0].experiments)
    cell = cells[number // seeds]
    return f"{cell}, seed {cell.experiments[number % seeds].seed}"


def _summaries(
    cells: Sequence[Cell], results: Sequence[Result | None]
) -> tuple[Summary, ...]:
    seeds = len(cells[0].experiments)
    return tuple(
        Summary(cell, tuple(results[first : first + seeds]))
        for first, cell in zip(range(0, len(results), seeds), cells, strict=True)
    )
