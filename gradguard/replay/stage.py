"""A bad step's Trainer, set up again, where the batches of the step run on demand.

Everything that a training step may touch is real: Trainer, loops, precision plugin,
optimizers, `self.log`. What there is not: the run's data, callbacks and loggers.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import deepcopy
from importlib import import_module
from itertools import repeat
from typing import Any, TypeVar

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.utils._python_dispatch import _disable_current_modes

from gradguard.errors import ConfigError, Interrupted
from gradguard.experiments.quiet import quiet
from gradguard.experiments.user_class import lightning_of, told
from gradguard.guard.random_state import set_random_state
from gradguard.hooks.update import Update
from gradguard.replay.attributes import Attributes
from gradguard.replay.load import BadStep
from gradguard.replay.rebuild import require_batches, require_fit

_T = TypeVar("_T")


class _Reached(Exception):  # noqa: N818 (an ending, not an error)
    """Ends the step at the update that was bad, before it changes anything."""


class _Done(Exception):  # noqa: N818 (an ending, not an error)
    """Ends the fit."""


def on_stage(bad: BadStep, module: Any, act: Callable[["Stage"], _T]) -> _T:
    """Return what `act` makes of the step, in the midst of a fit that ends with it.

    Args:
        bad: The step.
        module: A LightningModule, whose weights are replaced by those of the step.
        act: Runs the step, as often as it likes.

    Raises:
        ConfigError: If there cannot be such a Trainer, or the module does not fit.
        Interrupted: If Ctrl-C ended it.
    """
    require_batches(module)
    results: list[_T] = []

    def act_in_place_of_the_epoch(_: object) -> None:
        results.append(act(Stage(bad, module, trainer)))
        raise _Done

    module.prepare_data = lambda: None  # there are batches
    with quiet():
        trainer = _trainer(bad, module)
        trainer.fit_loop.epoch_loop.run = act_in_place_of_the_epoch
        try:
            trainer.fit(module, _nothing(bad.trainer["num_training_batches"]))
        except _Done:
            return results[0]
        except SystemExit:  # what Lightning makes of Ctrl-C
            raise Interrupted(
                "interrupted before the step was run to its end"
            ) from None
    raise ConfigError(
        f"{type(module).__qualname__} cannot be trained: Lightning ended before its step"
    )


class Stage:
    """A Trainer in mid-epoch, with the module as it was before a bad step.

    Args:
        bad: The step.
        module: The module, attached to the Trainer.
        trainer: The Trainer.

    Attributes:
        module: The module.
        batches: The batches of the step by position, on the Trainer's device.

    Raises:
        ConfigError: If the module does not fit.
    """

    def __init__(self, bad: BadStep, module: Any, trainer: Any) -> None:
        self.module = module
        self.batches = {
            place: move_data_to_device(saved["batch"], trainer.strategy.root_device)
            for place, saved in enumerate(bad.batches)
        }
        self._bad = bad
        self._trainer = trainer
        self._loop = trainer.fit_loop.epoch_loop
        self._updates = 0
        self._set_up()

    @property
    def device(self) -> torch.device:
        """Where the step runs."""
        found: torch.device = self._trainer.strategy.root_device
        return found

    @property
    def loss_scale(self) -> float:
        """What the loss is multiplied by, 1 without a gradient scaler."""
        return float(self._bad.scaler.get("scale", 1.0))

    def run(self, batches: Mapping[int, Any]) -> list[Tensor]:
        """Run forward and backward of batches; return their losses.

        Gradients stay where the bad update found them; with automatic optimisation they
        are still multiplied by the loss scale, and nobody has clipped them.

        Args:
            batches: Batches by position, or parts of them.
        """
        with _disable_current_modes():  # what watches the step is not to see this
            self._rewind()
        losses = []
        with suppress(_Reached):
            for place, batch in batches.items():
                losses += self._run_one(place, batch, is_last=place == max(batches))
        return losses

    def run_to_update(self, batches: Mapping[int, Any]) -> list[Tensor]:
        """Run batches as `run` does, and what is left between them and the update."""
        losses = self.run(batches)
        self.finish()
        return losses

    def finish(self) -> None:
        """Do what Lightning does between the last backward pass and the update.

        Unscale, clip, and call the hooks; the update itself is left out.
        """
        if not self.module.automatic_optimization:
            return
        batch_idx = self._bad.batches[-1]["batch_idx"]
        with suppress(_Reached):
            self._loop.automatic_optimization._optimizer_step(
                batch_idx, lambda: torch.zeros(())
            )

    @contextmanager
    def wide(self, dtype: torch.dtype) -> Iterator[None]:
        """Run in plain float32 or float64 until the context ends; the module is not cast."""
        strategy, usual = self._trainer.strategy, torch.get_default_dtype()
        plugin = strategy.precision_plugin
        plugins = import_module(f"{lightning_of(self.module)}.plugins")
        strategy.precision_plugin = plugins.Precision()
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(usual)
            strategy.precision_plugin = plugin

    def _set_up(self) -> None:
        bad, module = self._bad, self.module
        require_fit(bad, module)
        tensors = [*module.named_parameters(), *module.named_buffers()]
        saved = bad.weights | bad.buffers
        with torch.no_grad():
            for name, tensor in tensors:
                if name in saved:
                    tensor.copy_(saved[name])
        vars(module).update(move_data_to_device(bad.attributes, self.device))
        for optimizer in self._trainer.optimizers:
            Update(self._see_update).attach(optimizer)
        self._attributes = Attributes(module)

    def _see_update(self, _: object) -> None:
        """End the step if this is the update that was bad; else let it happen."""
        self._updates += 1
        if self._updates > self._bad.updates_before:
            raise _Reached

    def _rewind(self) -> None:
        """Set flags, counters, and what earlier updates of the step change as they were."""
        bad = self._bad
        step = bad.trainer["global_step"] - bad.updates_before
        self._attributes.restore()
        for name, part in self.module.named_modules():
            part.training = bad.modes.get(name, part.training)
        for name, parameter in self.module.named_parameters():
            parameter.requires_grad_(bad.requires_grad[name])
        plugin = self._trainer.precision_plugin
        if bad.scaler and hasattr(
            plugin, "scaler"
        ):  # as a step that ends before its update leaves it in between
            plugin.scaler = GradScaler(self.device.type)
            plugin.load_state_dict(bad.scaler)
        self._updates = 0
        progress = self._loop.automatic_optimization.optim_progress
        progress.optimizer.step.total.completed = step
        if not self.module.automatic_optimization:
            self._loop.manual_optimization.optim_step_progress.total.completed = step
            for optimizer, state in zip(
                self._trainer.optimizers, bad.optimizers, strict=True
            ):
                optimizer.load_state_dict(deepcopy(state))

    def _run_one(self, place: int, batch: Any, *, is_last: bool) -> list[Tensor]:
        saved, trainer, loop = self._bad.batches[place], self._trainer, self._loop
        batch_idx = saved["batch_idx"]
        set_random_state(saved["random_state"])
        loop.batch_progress.current.ready = batch_idx + 1
        loop.batch_progress.is_last_batch = is_last
        trainer._logger_connector.on_batch_start(batch)
        self.module.on_train_batch_start(batch, batch_idx)
        arguments = loop._build_kwargs({}, batch, batch_idx)
        if not self.module.automatic_optimization:
            return _losses(loop.manual_optimization.run(arguments))
        optimizer = trainer.optimizers[0]
        closure = loop.automatic_optimization._make_closure(
            arguments, optimizer, batch_idx
        )
        closure()
        return _losses(closure.consume_result().asdict())


def _losses(outputs: Mapping[str, Any]) -> list[Tensor]:
    loss = outputs.get("loss")
    return [] if loss is None else [loss]


def _trainer(bad: BadStep, module: Any) -> Any:
    """Return a Trainer set as the run's was, on one device of its kind if there is one."""
    saved, lightning = bad.trainer, import_module(lightning_of(module))
    device = torch.device(saved["device"]).type
    if device != "cpu" and not getattr(torch, device).is_available():
        device = "cpu"
    try:
        trainer = lightning.Trainer(
            accelerator=device,
            devices=1,
            max_epochs=saved["max_epochs"],
            max_steps=saved["max_steps"],
            accumulate_grad_batches=saved["accumulate_grad_batches"],
            gradient_clip_val=saved["gradient_clip_val"],
            gradient_clip_algorithm=saved["gradient_clip_algorithm"],
            limit_val_batches=0,
            log_every_n_steps=1,
            logger=lightning.loggers.logger.DummyLogger(),  # which takes anything
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **_precision(saved["precision"], lightning, device),
        )
    except Exception as error:  # whatever Lightning raises for what is not there
        raise ConfigError(
            f"the Trainer of the dump (precision {saved['precision']}) cannot be had: "
            f"{told(error)}"
        ) from None
    trainer.callbacks.clear()  # the environment may add a GradGuard, which would skip
    epochs = trainer.fit_loop.epoch_progress.current
    epochs.ready = epochs.processed = epochs.completed = saved["current_epoch"]
    return trainer


def _nothing(batches: float) -> Iterable[Any]:
    """Return as many batches as an epoch of the run had, of which none is looked at."""
    return repeat(None) if batches == math.inf else range(int(batches))


def _precision(precision: str, lightning: Any, device: str) -> dict[str, Any]:
    if precision != "16-mixed":
        return {"precision": precision}
    # Lightning takes it for CUDA only, and bf16 in its place elsewhere.
    scaler = GradScaler(device)
    return {"plugins": [lightning.plugins.MixedPrecision(precision, device, scaler)]}
