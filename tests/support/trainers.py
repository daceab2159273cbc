"""A quiet Trainer, and a net to train in it."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from typing_extensions import override

from tests.support.modules import Frozen

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}


def trainer(path: Path, *callbacks: Callback, **options: Any) -> Trainer:
    """Make a quiet Trainer of one epoch that logs to `path / "run"` every five steps."""
    usual = {
        "max_epochs": 1,
        "log_every_n_steps": 5,
        "logger": TensorBoardLogger(path, name=None, version="run"),
    }
    return Trainer(callbacks=list(callbacks), **{**QUIET, **usual, **options})


class Twenty(Frozen):
    """Twenty batches of one size; of five parameters two get no gradient."""

    @override
    def batches(self) -> list[Tensor]:
        return list(torch.randn(20, 2, 4, generator=torch.manual_seed(1)))


def fit(
    path: Path,
    *callbacks: Callback,
    model: LightningModule | None = None,
    **options: Any,
) -> LightningModule:
    model = model or Twenty()
    trainer(path, *callbacks, **options).fit(model)
    return model


class Failing(Twenty):
    @override
    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        if batch_idx == 12:
            raise RuntimeError("no more batches")
        return super().training_step(batch, batch_idx)


def same_weights(one: LightningModule, other: LightningModule) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(mine, theirs) for mine, theirs in pairs)
