"""Run trials in parallel processes, once where several studies share a trial."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from tempfile import TemporaryDirectory
from typing import NamedTuple

from gradguard.experiments.workers import each
from gradguard.reproduction.study import Study, Trial, TrialResult


class Task(NamedTuple):
    """A trial without its label, and a seed: what two studies may have in common."""

    trial: Trial
    seed: int


def tasks_of(study: Study, *, seeds: int, quick: bool) -> dict[tuple[str, int], Task]:
    """Return the tasks of a study by label and seed."""
    return {
        (trial.label, seed): Task(replace(trial, label="", quick=True), seed)
        for trial in study.trials
        if trial.quick or not quick
        for seed in range(1 if trial.compute else seeds)
    }


def run_all(
    tasks: Sequence[Task], *, jobs: int
) -> Iterator[tuple[Task, TrialResult | Exception]]:
    """Yield each task with its run, or with what ended it, first done first."""
    # One scratch directory for all: what is killed cannot clear up after itself.
    with TemporaryDirectory(prefix="gradguard-") as scratch:
        do = partial(execute, scratch=scratch)
        for position, value in each(do, tasks, jobs=jobs):
            yield tasks[position], value


def execute(task: Task, *, scratch: str) -> TrialResult:
    """Run one task in this process, its files below the scratch directory."""
    trial, seed = task
    if trial.compute:
        return TrialResult(trial.compute())
    from gradguard.reproduction import training  # noqa: PLC0415 (torch takes seconds)

    if trial.first_step_only:
        return training.first_step(trial, seed=seed)
    with TemporaryDirectory(dir=scratch) as log_dir:
        return training.train(trial, seed=seed, log_dir=log_dir)
