"""What a dump says of the fit it comes from: enough to set up the same Trainer again."""

import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer


class Origin:
    """The fit a dump is of, see `gradguard.guard.dump.Origin`.

    Args:
        trainer: A Trainer of either namespace of Lightning.
        module: Its LightningModule.
    """

    def __init__(self, trainer: Any, module: Any) -> None:
        self._trainer = trainer
        self._module = module

    @property
    def rank(self) -> int:
        """Number of this process."""
        return int(self._trainer.global_rank)

    @property
    def period(self) -> int | None:
        """Batches between two zeroings of gradients; None where the module decides."""
        if not self._module.automatic_optimization:
            return None
        return int(self._trainer.accumulate_grad_batches)

    @property
    def optimizers(self) -> Sequence[Optimizer]:
        """All optimizers of the fit."""
        found: Sequence[Optimizer] = self._trainer.optimizers
        return found

    def facts(self) -> dict[str, Any]:
        """Return versions, the module's class and flags, and what the Trainer was set to."""
        return {
            "versions": {
                "gradguard": version("gradguard"),
                "lightning": version(self._library),
                "torch": str(torch.__version__),
                "python": platform.python_version(),
            },
            "module": self._class(),
            "requires_grad": self._requires_grad(),
            "trainer": self._settings(),
            "autocast": _autocast(self._trainer.precision_plugin),
            "scaler": self._trainer.precision_plugin.state_dict(),
        }

    @property
    def _library(self) -> str:
        """The Lightning that the Trainer is of."""
        package = type(self._trainer).__module__.partition(".")[0]
        return "lightning" if package == "lightning" else "pytorch-lightning"

    def _class(self) -> dict[str, Any]:
        module = self._module
        return {
            "path": f"{type(module).__module__}:{type(module).__qualname__}",
            "script": Path(
                getattr(sys.modules["__main__"], "__file__", None) or ""
            ).stem,
            "hparams": {
                name: value
                for name, value in module.hparams_initial.items()
                if name in module.hparams  # Lightning takes away what cannot be pickled
            },
            "hparams_name": getattr(module, "_hparams_name", None),
            "automatic_optimization": module.automatic_optimization,
        }

    def _requires_grad(self) -> dict[str, bool]:
        """Return which parameters want gradients, by name, outside of `toggle_optimizer`."""
        # Private, but a step ends bad between the toggling and the way back.
        toggled = getattr(self._module, "_param_requires_grad_state", {})
        return {
            name: bool(toggled.get(parameter, parameter.requires_grad))
            for name, parameter in self._module.named_parameters()
        }

    def _settings(self) -> dict[str, Any]:
        trainer = self._trainer
        algorithm = trainer.gradient_clip_algorithm
        return {
            "precision": str(trainer.precision),
            "device": str(trainer.strategy.root_device),
            "strategy": type(trainer.strategy).__name__,
            "world_size": trainer.world_size,
            "rank": trainer.global_rank,
            "accumulate_grad_batches": trainer.accumulate_grad_batches,
            "gradient_clip_val": trainer.gradient_clip_val,
            "gradient_clip_algorithm": algorithm and str(algorithm.value),
            "max_epochs": trainer.max_epochs,
            "max_steps": trainer.max_steps,
            "current_epoch": trainer.current_epoch,
            "global_step": trainer.global_step,
            "num_training_batches": trainer.num_training_batches,
        }


def _autocast(precision: Any) -> dict[str, str] | None:
    """Return where and to what a precision plugin casts; None if it does not."""
    if not hasattr(precision, "autocast_context_manager"):
        return None
    context = precision.autocast_context_manager()
    return {"device": context.device, "dtype": str(context.fast_dtype)}
