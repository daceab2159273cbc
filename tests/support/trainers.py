"""One small net, a quiet Trainer, and what its event files say."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

Optimizers = Callable[[Any], torch.optim.Optimizer]


class Net(LightningModule):
    """Two layers, one of them frozen, and a parameter the loss does not know."""

    def __init__(self, num_batches: int = 20, optimizer: Optimizers | None = None):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.second = nn.Linear(8, 1)
        self.frozen = nn.Linear(1, 1).requires_grad_(False)
        self.unused = nn.Parameter(torch.zeros(2))
        self.num_batches = num_batches
        self.optimizer = optimizer or (lambda p: torch.optim.SGD(p, 0.01, 0.9))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        (x,) = batch
        y: Tensor = self.frozen(self.second(self.first(x).tanh()))
        return 3 * y.square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer(self.parameters())

    def train_dataloader(self) -> DataLoader[Any]:
        data = torch.randn(2 * self.num_batches, 4, generator=torch.manual_seed(1))
        return DataLoader(TensorDataset(data), batch_size=2)


def trainer(path: Path, *callbacks: Callback, **options: Any) -> Trainer:
    quiet = {
        "accelerator": "cpu",
        "max_epochs": 1,
        "log_every_n_steps": 5,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "logger": TensorBoardLogger(path, name=None, version="run"),
    }
    return Trainer(callbacks=list(callbacks), **{**quiet, **options})


def fit(
    path: Path, *callbacks: Callback, model: Net | None = None, **options: Any
) -> Net:
    seed_everything(7, verbose=False)
    model = copy.deepcopy(model) if model else Net()
    trainer(path, *callbacks, **options).fit(model)
    return model


def weights(model: Net) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def events(path: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(path), {"tensors": 0, "scalars": 0})
    accumulator.Reload()
    return accumulator


class Failing(Net):
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        if batch_idx == 12:
            raise RuntimeError("no more batches")
        return super().training_step(batch, batch_idx)
