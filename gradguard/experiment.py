"""Run an experiment: refuse what cannot work, train, evaluate, read back the records."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from typing_extensions import override

from gradguard.adaptive import AutoClip, ZClip
from gradguard.agc import AdaptiveClip
from gradguard.by_name import ByName, check
from gradguard.callback import GradGuard
from gradguard.clipping import ClipNorm, ClipValue, Policy
from gradguard.config import MODELS, Clip, Experiment, import_class
from gradguard.errors import ConfigError, Interrupted
from gradguard.preflight import require_resumable, require_writable
from gradguard.progress import Progress
from gradguard.record import Records
from gradguard.recording import Recording
from gradguard.settings import dump
from gradguard.tensorboard.reader import read_recordings
from gradguard.units import HasUnits, stuck_units

if TYPE_CHECKING:  # scikit-learn takes a second, for the data that is asked for only
    from gradguard.data.circles import CirclesData
    from gradguard.data.digit_sum import DigitSumData
    from gradguard.data.regression import RegressionData

# Of both namespaces: a module to inspect may be of either.
_CHATTY = (
    "lightning.pytorch", "lightning.fabric", "pytorch_lightning", "lightning_fabric"
)  # fmt: skip

Data: TypeAlias = "CirclesData | DigitSumData | RegressionData"


@dataclass(frozen=True)
class Outcome:
    """What a run came to; that it diverged is an outcome too.

    Attributes:
        experiment: What was run.
        run_dir: Where events, checkpoint and the experiment itself are.
        train: Final metrics by name over the training set: loss, and mse or accuracy.
        test: The same over the test set.
        recording: What gradguard wrote.
        units: Share of hidden units that are stuck, see `gradguard.units.stuck_units`,
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
    """Train and evaluate; return the outcome, on processes of rank above zero None.

    Args:
        experiment: What to run.
        resume: Checkpoint of an earlier run to go on from.
        progress: Whether to show a progress bar.

    Raises:
        ConfigError: If the run cannot start; nothing has been written then.
        Interrupted: If Ctrl-C ended the training.
        NonFiniteGradientError: If a gradient did, and `on_nonfinite` says so.
    """
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


def build(experiment: Experiment) -> tuple[LightningModule, Data, list[Policy]]:
    """Return the untrained model, its data and what clips, as the experiment says.

    Raises:
        ConfigError: If the settings do not fit each other.
    """
    model, data = _model_and_data(experiment)
    return model, data, _policies(experiment, model)


@contextmanager
def quiet() -> Iterator[None]:
    """Mute what Lightning tells every user of small models, and only while we run."""
    loggers = [logging.getLogger(name) for name in _CHATTY]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=PossibleUserWarning)
        # Between Lightning 2.6 and torch 2.9 or later; nothing a user could do.
        warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")
        # A resumed run is a new one, in a directory of its own.
        warnings.filterwarnings("ignore", message="The dirpath has changed")
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _model_and_data(
    experiment: Experiment,
) -> tuple[LightningModule, Data]:
    network, data = map(import_class, MODELS[experiment.model.name])
    try:
        model = network(**experiment.model.model_dump(exclude={"name"}))
    except ValueError as error:
        raise ConfigError(f"model.{error}") from None
    except RuntimeError as error:  # there is no such room
        reason = (
            str(error).rpartition("DefaultCPUAllocator: ")[2].partition(" Error")[0]
        )
        raise ConfigError(f"model is too large: {reason}") from None
    try:
        return model, data(**experiment.data.model_dump())
    except ValueError as error:
        raise ConfigError(f"data.{error}") from None


def _policies(experiment: Experiment, model: LightningModule) -> list[Policy]:
    policies = [_policy(clip) for clip in experiment.clip]
    try:
        check(policies, [name for name, _ in model.named_parameters()])
    except ValueError as error:
        raise ConfigError(f"clip: {error}") from None
    return policies


def _policy(clip: Clip) -> Policy:
    if clip.norm is not None:
        return ClipNorm(clip.norm, per_parameter=clip.per_parameter)
    if clip.value is not None:
        return ClipValue(clip.value)
    if clip.auto is not None:
        return AutoClip(clip.auto)
    if clip.zclip is not None:
        return ZClip(clip.zclip)
    if clip.agc is not None:
        return AdaptiveClip(clip.agc, exclude=tuple(clip.exclude))
    assert clip.by_name is not None  # by the rules of Clip
    return ByName(
        {name: [_policy(one) for one in clips] for name, clips in clip.by_name.items()}
    )


def _trainer(
    experiment: Experiment, policies: list[Policy], *, progress: bool
) -> Trainer:
    options = experiment.trainer.model_dump(exclude_none=True)
    try:
        return Trainer(
            **options,
            logger=TensorBoardLogger(
                experiment.log_dir, name=experiment.name, default_hp_metric=False
            ),
            callbacks=[
                GradGuard(
                    clip=policies,
                    on_nonfinite=experiment.on_nonfinite,
                    max_consecutive_skips=experiment.max_consecutive_skips,
                    layer_statistics=experiment.layer_statistics,
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
        trainer.fit(model, data, ckpt_path=resume)
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
    """Looks at the hidden units over the rows evaluated first, the training set's."""

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
