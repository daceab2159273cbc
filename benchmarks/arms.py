"""Ways to train with clipping: Lightning's alone, gradguard's, and what others record."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import grad_norm
from torch.optim import Optimizer
from typing_extensions import override

from gradguard import AutoClip, ClipNorm, GradGuard, ZClip

# Fires at every step: the costliest case, and the model stays where it began.
MAX_NORM = 1e-3


class Recipe(Callback):
    """What Lightning's documentation advises, moved from the module's hook to here."""

    @override
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        pl_module.log_dict(grad_norm(pl_module, norm_type=2))


class Items(Callback):
    """A scalar per parameter and step, each fetched by `.item()`."""

    @override
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        board: Any = trainer.logger.experiment  # type: ignore[union-attr] # TensorBoard's
        for name, parameter in pl_module.named_parameters():
            if parameter.grad is not None:
                norm_before = parameter.grad.norm().item()
                board.add_scalar(f"before/{name}", norm_before, trainer.global_step)


class Histograms(Callback):
    """A histogram per parameter and step."""

    @override
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        board: Any = trainer.logger.experiment  # type: ignore[union-attr] # TensorBoard's
        for name, parameter in pl_module.named_parameters():
            if parameter.grad is not None:
                board.add_histogram(
                    f"before/{name}", parameter.grad, trainer.global_step
                )


class Watched(Callback):
    """`wandb.watch` of the gradients at every step, offline."""

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        import wandb  # noqa: PLC0415 (not a requirement: the arm is left out without it)

        self._run = wandb.init(mode="offline", dir=trainer.default_root_dir)
        self._run.watch(pl_module, log="gradients", log_freq=1)

    @override
    def on_train_batch_end(self, *_: Any) -> None:
        self._run.log({})  # what was watched is kept with the next log

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._run.finish()


class Monitored(Callback):
    """Composer's OptimizerMonitor at every step, shown what its Trainer would show it."""

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        from composer.callbacks import OptimizerMonitor  # noqa: PLC0415 (not a requirement)

        self._monitor = OptimizerMonitor(batch_log_interval=1)
        self._state = SimpleNamespace(
            model=pl_module,
            optimizers=trainer.optimizers,
            fsdp_enabled=False,
            timestamp=SimpleNamespace(batch=SimpleNamespace(value=0)),
        )

    @override
    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        board: Any = trainer.logger
        self._monitor.batch_end(self._state, board)


def _zclip() -> list[Callback]:
    from zclip import ZClipLightningCallback  # noqa: PLC0415 (not a requirement)

    return [ZClipLightningCallback(max_grad_norm=MAX_NORM)]


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        says: What it is, in a few words.
        callbacks: Makes what is added to the Trainer.
        clips: Whether the Trainer clips, as in the baseline.
        needs: A package it needs beyond gradguard's own.
    """

    says: str
    callbacks: Callable[[], list[Callback]] = list
    clips: bool = True
    needs: str = "torch"

    @property
    def missing(self) -> bool:
        """Whether a package that the arm needs is not installed."""
        return find_spec(self.needs) is None

    def trainer(self, **options: Any) -> Trainer:
        """Return a Trainer of this arm, for one endless epoch."""
        return Trainer(
            accelerator="auto" if torch.cuda.is_available() else "cpu",
            devices=1,
            max_epochs=1,
            gradient_clip_val=MAX_NORM if self.clips else None,
            callbacks=[*options.pop("first", ()), *self.callbacks()],
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            **options,
        )


def _own(**options: Any) -> Callable[[], list[Callback]]:
    return lambda: [
        GradGuard(options.get("clip", ClipNorm(MAX_NORM)), **_rest(options))
    ]


def _rest(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key != "clip"}


BASELINE = Arm("Lightning clips, nothing is recorded")
ARMS: dict[str, Arm] = {
    "lightning": Arm("the baseline once more: the noise"),
    "gradguard": Arm("gradguard clips and records", _own(), clips=False),
    "observed": Arm("Lightning clips, gradguard records", lambda: [GradGuard()]),
    "recipe": Arm("Lightning's recipe: log_dict(grad_norm())", lambda: [Recipe()]),
    "item": Arm(".item() and add_scalar each", lambda: [Items()]),
    "histogram": Arm("add_histogram each", lambda: [Histograms()]),
    "wandb": Arm("wandb.watch, offline", lambda: [Watched()], needs="wandb"),
    "zclip-package": Arm("the zclip package clips", _zclip, clips=False, needs="zclip"),
    "composer": Arm(
        "Composer's OptimizerMonitor", lambda: [Monitored()], needs="composer"
    ),
    "skip": Arm("gradguard, skip", _own(on_nonfinite="skip"), clips=False),
    "spike": Arm(
        "gradguard, skip, of spikes too",
        _own(on_nonfinite="skip", on_spike="skip"),
        clips=False,
    ),
    "raise": Arm("gradguard, raise", _own(on_nonfinite="raise"), clips=False),
    "autoclip": Arm("gradguard, AutoClip", _own(clip=AutoClip()), clips=False),
    "zclip": Arm("gradguard, ZClip", _own(clip=ZClip()), clips=False),
    "per-parameter": Arm(
        "gradguard, ClipNorm(per_parameter=True)",
        _own(clip=ClipNorm(MAX_NORM, per_parameter=True)),
        clips=False,
    ),
    "every-10": Arm("gradguard, every 10 steps", _own(every_n_steps=10), clips=False),
}
DEFAULT = list(ARMS)[: list(ARMS).index("skip")]
