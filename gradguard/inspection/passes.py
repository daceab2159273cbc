"""The two ways to a forward and a backward pass: Lightning's, and a plain call."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from typing_extensions import override

from gradguard.errors import ConfigError
from gradguard.experiments.quiet import quiet
from gradguard.experiments.user_class import lightning_of
from gradguard.inspection.backward import Observer
from gradguard.inspection.layers import Inspection


def by_trainer(module: Any, batches: Any, *, subject: str, rows: str) -> Inspection:
    """Inspect one `training_step` and its backward pass, run by a real Trainer.

    Args:
        module: A LightningModule.
        batches: What to train on; None for what the module itself has.
        subject: What is inspected, in words.
        rows: What the first batch is, in words.

    Raises:
        ConfigError: If Lightning refuses the module, or no backward pass is made.
    """
    stop = _StopAfterBackward(module)
    lightning = import_module(lightning_of(module))
    try:
        with quiet(), stop.observer.watching():
            lightning.Trainer(
                accelerator="cpu",
                devices=1,
                callbacks=[stop],
                fast_dev_run=True,  # one batch, and a logger that takes anything
                enable_progress_bar=False,
                enable_model_summary=False,
            ).fit(module, batches)
    except _Measured:
        return stop.observer.inspection(
            subject=subject, loss=stop.loss, loss_of=f"training_step on {rows}"
        )
    except (MisconfigurationException, RuntimeError) as error:
        if not _is_refusal(error):
            raise  # the module's own: its traceback says where
        reason = str(error).split(". ")[0].strip(" .")
        raise ConfigError(f"{subject} cannot be trained: {reason}") from None
    raise ConfigError(f"{subject} cannot be inspected: no backward pass was made")


def _is_refusal(error: Exception) -> bool:
    """Whether Lightning refuses the module, rather than the module failing."""
    if isinstance(error, MisconfigurationException):
        return True
    return "multiple optimizers" in str(error)


class _Measured(Exception):  # noqa: N818 (an ending, not an error)
    """Ends the fit after the backward pass, before a step changes the weights."""


class _StopAfterBackward(Callback):
    """Lets Lightning prepare everything, and ends the fit before the first update."""

    def __init__(self, module: nn.Module) -> None:
        self.observer = Observer(module)
        self.loss = float("nan")

    @override
    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        self.loss = float(loss.detach())

    @override
    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        raise _Measured


def by_example(module: nn.Module, example: Any, *, subject: str) -> Inspection:
    """Inspect one `forward`; the loss is the mean of the output, with random signs.

    Args:
        module: Any module.
        example: Its input: a tuple or a mapping is its arguments.
        subject: What is inspected, in words.

    Raises:
        ConfigError: If no output has a gradient.
    """
    if type(module).forward in (nn.Module.forward, LightningModule.forward):
        raise ConfigError(f"{subject} has no forward() to give example_input_array to")
    observer = Observer(module)
    with observer.watching():
        if isinstance(example, Mapping):
            output = module(**example)
        else:
            output = module(*example) if isinstance(example, tuple) else module(example)
    tensors = _tensors(output)
    if not tensors:
        raise ConfigError(f"{subject} gives no output that has a gradient")
    # Signs, because the plain mean of what a LayerNorm gives is constant.
    loss = sum((tensor * _signs(tensor)).mean() for tensor in tensors)
    assert isinstance(loss, Tensor)
    loss.backward()  # type: ignore[no-untyped-call]  # torch has no type for it
    return observer.inspection(
        subject=subject,
        loss=float(loss.detach()),
        loss_of="mean of the output, with random signs, for example_input_array",
    )


def _signs(tensor: Tensor) -> Tensor:
    return torch.randint_like(tensor, 2, requires_grad=False) * 2 - 1


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output] if output.requires_grad else []
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, list | tuple):
        return [tensor for part in output for tensor in _tensors(part)]
    return []
