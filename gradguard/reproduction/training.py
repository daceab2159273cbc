"""Run a trial: compute, train, or take the first backward pass of a training."""

import warnings
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, seed_everything

from gradguard.experiments.build import Data, build
from gradguard.experiments.resolve import resolve
from gradguard.experiments.run import run
from gradguard.health.diagnosis import diagnose
from gradguard.records.recording import Recording
from gradguard.records.records import Records
from gradguard.reproduction import measure
from gradguard.reproduction.study import Trial, TrialResult

# Neither changes a number: fewer, larger writes take half the time.
_CHEAP = ("trainer.accelerator=cpu", "trainer.log_every_n_steps=1000")


def train(trial: Trial, *, seed: int, log_dir: str) -> TrialResult:
    """Train, evaluate and measure a trial; its files are not needed afterwards."""
    torch.set_num_threads(1)  # as many processes as cores: threads would only wait
    experiment = resolve(
        config=trial.config,
        assignments=[*trial.assignments, *_CHEAP],
        values={"seed": seed, "log_dir": log_dir},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of runs that overflow on purpose
        outcome = run(experiment, progress=False)
    assert outcome is not None  # there is one process
    numbers = measure.of_outcome(outcome)
    return TrialResult(numbers, outcome.recording, diagnose(outcome.recording))


def first_step(trial: Trial, *, seed: int) -> TrialResult:
    """Measure the gradients of all training rows together, and take no step."""
    experiment = resolve(
        config=trial.config, assignments=trial.assignments, values={"seed": seed}
    )
    seed_everything(experiment.seed, verbose=False)
    model, data, _ = build(experiment)
    records = _first_records(model, data)
    numbers = measure.of_records(records, model, steps_per_epoch=1)
    recording = Recording(records)
    # That nothing clips says nothing where no step is taken.
    findings = [one for one in diagnose(recording) if one.kind != "unclipped"]
    return TrialResult(numbers, recording, findings)


def _first_records(model: LightningModule, data: Data) -> Records:
    data.setup("fit")
    (batch,) = data.train_eval_dataloader()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no Trainer to log to
        loss: Any = model.training_step(batch, 0)
    loss.backward()
    norms = {
        name: parameter.grad.double().norm().item()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    before = np.array([list(norms.values())], dtype=np.float32)
    never = np.zeros(1, dtype=bool)
    return Records(
        tuple(norms),
        steps=np.zeros(1, dtype=np.int64),
        before=before,
        after=before,
        missing=np.zeros_like(before, dtype=bool),
        skipped=never,
        refused=never,
        loss=np.array([loss.item()]),
    )
