"""One run of a sweep, in a process of its own."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from gradguard.errors import BadStepError
from gradguard.experiments.config import Experiment, validate
from gradguard.experiments.run import run
from gradguard.sweep.results import Result, path


def train(settings: dict[str, Any], *, scratch: str, keep_runs: bool) -> Result:
    """Train the experiment that the settings describe, and return what became of it.

    Args:
        settings: What `Experiment.model_dump` gives: plain values pickle.
        scratch: Where a run that is not kept has its files while it lasts.
        keep_runs: Whether its events and its checkpoint stay, beside its result.
    """
    torch.set_num_threads(1)  # as many processes as cores: threads would only wait
    experiment = validate(settings, model=settings["model"]["name"])
    if keep_runs:
        name = str(path(experiment).with_suffix("").relative_to(experiment.log_dir))
        return _ended(experiment.model_copy(update={"name": name}), kept=True)
    with TemporaryDirectory(dir=scratch) as directory:
        # How often is written changes what it costs, and nothing that comes out.
        rarely = experiment.trainer.model_copy(update={"log_every_n_steps": 50})
        return _ended(
            experiment.model_copy(update={"log_dir": directory, "trainer": rarely}),
            kept=False,
        )


def _ended(experiment: Experiment, *, kept: bool) -> Result:
    directory = str(Path(experiment.log_dir) / experiment.name) if kept else None
    try:
        outcome = run(experiment, progress=False)
    except BadStepError as ending:
        return Result({}, {}, {}, float("nan"), 0, None, str(ending), directory)
    assert outcome is not None  # a single process is of rank zero
    return Result(
        train=outcome.train,
        test=outcome.test,
        units=outcome.units,
        clip_fraction=outcome.records.clip_fraction,
        steps=len(outcome.records.steps),
        first_nonfinite_loss=outcome.first_nonfinite_loss,
        run_dir=directory and str(outcome.run_dir),
    )
