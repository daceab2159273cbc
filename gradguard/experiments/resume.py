"""Refuse to go on from a checkpoint that cannot be, before anything is written."""

import warnings
from io import BytesIO
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch.optim import Optimizer

from gradguard.errors import ConfigError
from gradguard.tensorboard.places import located, opened

_PARTS = {"state_dict", "optimizer_states", "epoch", "global_step"}


def require_resumable(path: str, *, model: LightningModule, trainer: Trainer) -> None:
    """Refuse a checkpoint from which training cannot go on.

    Args:
        path: The checkpoint, or its URL.
        model: What is to be trained further.
        trainer: What is to train it, up to its `max_epochs` and `max_steps`.

    Raises:
        ConfigError: If the file is missing or corrupt, is of another model or
            optimizer, or leaves nothing to train.
    """
    content = _content(path)
    saved, wanted = _shapes(content["state_dict"]), _shapes(model.state_dict())
    if saved != wanted:
        name, _ = min(saved ^ wanted)
        raise ConfigError(f"checkpoint {path!r} is of another model: {name} differs")
    # A checkpoint does not say which optimizer it is of, only how its settings are named.
    if _setting_names(content["optimizer_states"][0]) != _setting_names(
        _optimizer(model).state_dict()
    ):
        raise ConfigError(f"checkpoint {path!r} is of another optimizer")
    _require_less_than("max_epochs", content["epoch"] + 1, trainer, path)
    _require_less_than("max_steps", content["global_step"], trainer, path)


def _content(path: str) -> dict[str, Any]:
    try:
        with opened(located(path)) as file:
            data = file.read()
    except Exception as error:  # whatever the file system behind a URL raises
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"checkpoint {path!r} cannot be read: {reason}") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about formats, when the error says more
            content = torch.load(BytesIO(data), map_location="cpu", weights_only=True)
    except Exception:  # bytes that are no checkpoint raise anything
        raise ConfigError(f"checkpoint {path!r} is corrupt") from None
    if not (isinstance(content, dict) and content.keys() >= _PARTS):
        raise ConfigError(f"checkpoint {path!r} is not one of a training run")
    return content


def _shapes(state: dict[str, Any]) -> set[tuple[str, tuple[int, ...]]]:
    return {(name, tuple(tensor.shape)) for name, tensor in state.items()}


def _setting_names(state: dict[str, Any]) -> set[str]:
    return set(state["param_groups"][0])


def _optimizer(model: LightningModule) -> Optimizer:
    optimizer = model.configure_optimizers()
    assert isinstance(optimizer, Optimizer)  # true of every bundled model
    return optimizer


def _require_less_than(limit: str, done: int, trainer: Trainer, path: str) -> None:
    most = getattr(trainer, limit)
    if most != -1 and done >= most:
        raise ConfigError(
            f"trainer.{limit} {most} leaves nothing to train: "
            f"checkpoint {path!r} has reached {done}"
        )
