"""Run an experiment: refuse what cannot work, train, evaluate, read back the records."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from typing_extensions import override

from gradguard.callback import GradGuard
from gradguard.clipping.policy import Policy
from gradguard.errors import ConfigError, Interrupted
from gradguard.experiments.build import Data, build
from gradguard.experiments.config import Experiment
from gradguard.experiments.directory import ClaimingLogger, on_this_machine
from gradguard.experiments.hidden_units import HasUnits, stuck_units
from gradguard.experiments.progress import Progress
from gradguard.experiments.quiet import quiet
from gradguard.experiments.resolve import dump
from gradguard.experiments.resume import require_resumable
from gradguard.output import require_writable
from gradguard.records.recording import Recording
from gradguard.records.records import Records
from gradguard.tensorboard.places import located
from gradguard.tensorboard.reader import read_recordings


@dataclass(frozen=True)
class Outcome:
    """What a run came to; divergence is an outcome too.

    Attributes:
        experiment: What was run.
        run_dir: Where events, checkpoint and the experiment itself are.
        train: Final metrics by name over the training set: loss, and mse or accuracy.
        test: The same over the test set.
        recording: What gradguard wrote.
        units: Share of hidden units that are stuck, see `gradguard.experiments.hidden_units.stuck_units`,
            over the training set.
    """

    experiment: Experiment
    run_dir: Path
    train: dict[str, float]
    test: dict[str, float]
    recording: Recording
    units: dict[str, float]

    @property
    def records(self) -> Records:
        """What gradguard saw at every optimizer step."""
        return self.recording.records

    @cached_property
    def first_nonfinite_loss(self) -> int | None:
        """First step whose loss was NaN or Inf; None if the loss stayed finite."""
        bad = self.records.steps[~np.isfinite(self.records.loss)]
        return int(bad[0]) if len(bad) else None


def run(
    experiment: Experiment, *, resume: str | None = None, progress: bool = True
) -> Outcome | None:
    """Train and evaluate an experiment; return the outcome, or None on ranks above zero.

    Args:
        experiment: What to run.
        resume: Checkpoint of an earlier run to go on from.
        progress: Whether to show a progress bar.

    Raises:
        ConfigError: If the run cannot start; nothing has been written then.
        Interrupted: If Ctrl-C ended the training.
        BadStepError: If a gradient did, and `on_nonfinite` or `on_spike` says so.
    """
    experiment = on_this_machine(experiment)
    with quiet():
        require_writable(Path(experiment.log_dir))
        seed_everything(experiment.seed, verbose=False)
        model, data, policies = build(experiment)
        trainer = _trainer(experiment, policies, progress=progress)
        if resume is not None:
            require_resumable(resume, model=model, trainer=trainer)
        _fit(trainer, model, data, resume=resume)
        # All ranks evaluate, alike: torchmetrics would wait for those that do not.
        units = _Units()
        train, test = _evaluate(experiment, model, data, units)
        run_dir = Path(str(trainer.log_dir))
    if not trainer.is_global_zero:
        return None
    (recording,) = read_recordings(run_dir).values()
    return Outcome(experiment, run_dir, train, test, recording, units.shares)


def _trainer(
    experiment: Experiment, policies: list[Policy], *, progress: bool
) -> Trainer:
    options = experiment.trainer.model_dump(exclude_none=True)
    try:
        return Trainer(
            **options,
            logger=ClaimingLogger(
                experiment.log_dir, name=experiment.name, default_hp_metric=False
            ),
            callbacks=[
                GradGuard(
                    clip=policies,
                    on_nonfinite=experiment.on_nonfinite,
                    on_spike=experiment.on_spike.value,
                    max_consecutive_skips=experiment.max_consecutive_skips,
                    dump_dir=experiment.dump_dir,
                    layer_statistics=experiment.layer_statistics,
                    verdict=False,  # told by whoever runs the experiment
                ),
                # The newest epoch under a name that a shell history can repeat.
                ModelCheckpoint(filename="last", enable_version_counter=False),
                _KeepExperiment(experiment),
                *([Progress()] if progress else []),
            ],
            enable_progress_bar=progress,
            enable_model_summary=False,
        )
    except (MisconfigurationException, ImportError, TypeError, ValueError) as error:
        # What Lightning raises for hardware or packages that are not there.
        asked = ", ".join(
            f"{name} {options[name]}"
            for name in ("accelerator", "devices", "strategy", "precision")
        )
        reason = str(error).split(". ")[0].strip(" .")
        raise ConfigError(f"trainer ({asked}) cannot be had: {reason}") from None


def _fit(
    trainer: Trainer,
    model: LightningModule,
    data: Data,
    *,
    resume: str | None,
) -> None:
    try:
        trainer.fit(model, data, ckpt_path=resume and located(resume))
    except SystemExit:
        # Lightning ends the process on Ctrl-C, once every callback has written.
        raise Interrupted(
            f"interrupted after {trainer.global_step} steps, "
            f"recorded in {trainer.log_dir}"
        ) from None


def _evaluate(
    experiment: Experiment, model: LightningModule, data: Data, units: "_Units"
) -> Iterator[dict[str, float]]:
    """Yield the metrics over the training set, then those over the test set."""
    options = experiment.trainer
    tester = Trainer(
        accelerator=options.accelerator,
        devices=1,
        precision=options.precision,
        callbacks=[units],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    for rows in (data.train_eval_dataloader(), data.test_dataloader()):
        (metrics,) = tester.test(model, rows, verbose=False)
        yield {name.removeprefix("test_"): metrics[name] for name in metrics}


class _Units(Callback):
    """Keeps the shares of stuck hidden units over the first rows: the training set."""

    def __init__(self) -> None:
        self.shares: dict[str, float] = {}

    @override
    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: Any,
        *args: object,
    ) -> None:
        # Here rows and weights have the same dtype and device, whatever was asked.
        self.shares = self.shares or stuck_units(cast(HasUnits, pl_module), batch[0])


class _KeepExperiment(Callback):
    """Writes the experiment beside its events, in a form that `--config` takes."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        run_dir = Path(str(trainer.log_dir))  # the same on every rank
        if trainer.is_global_zero:
            run_dir.mkdir(parents=True, exist_ok=True)
            text = dump(self.experiment)
            (run_dir / "experiment.yaml").write_text(text, encoding="utf-8")
