"""Dumps of real fits, and the modules they are of."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader
from typing_extensions import override

from gradguard import GradGuard
from tests.support.trainers import fit

NUM_BATCHES, BAD_BATCH, BAD_SAMPLE = 6, 4, 3


class Logarithm(LightningModule):
    """A line behind a logarithm; one sample of one batch is zero."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.line = nn.Linear(width, 1)
        nn.init.constant_(self.line.weight, 0.1)
        nn.init.zeros_(self.line.bias)

    def batches(self) -> Any:
        width = self.line.in_features
        x = torch.rand(NUM_BATCHES, 8, width, generator=torch.manual_seed(1)) + 0.5
        x[BAD_BATCH, BAD_SAMPLE] = 0
        return list(x)

    @override
    def train_dataloader(self) -> Any:
        return DataLoader(self.batches(), batch_size=None, collate_fn=lambda x: x)

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss: Tensor = self.line(batch.log()).square().mean()
        self.log("train_loss", loss)
        return loss

    @override
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Rows:
    """A batch of a class of its own."""

    def __init__(self, x: Tensor) -> None:
        self.x = x


class OwnBatch(Logarithm):
    @override
    def batches(self) -> Any:
        return [Rows(x) for x in super().batches()]

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch.x, batch_idx)


class NeedsArgument(Logarithm):
    """Does not save what it is made with."""

    def __init__(self, factor: float) -> None:
        LightningModule.__init__(self)
        self.line = nn.Linear(4, 1)
        self.factor = factor

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx) * self.factor


class Wider(Logarithm):
    """Another module, which the dumps of the others do not fit."""

    def __init__(self) -> None:
        super().__init__(width=5)


class Deeper(Logarithm):
    """The same with one layer more."""

    def __init__(self) -> None:
        super().__init__()
        self.more = nn.Linear(1, 1)


class Healthy(Logarithm):
    """The same where nothing breaks."""

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch + 1, batch_idx)


def dumped(path: Path, model: LightningModule, **options: Any) -> Path:
    """Train, and return the dump of the first bad step."""
    directory = path / "bad-steps"
    fit(
        path, GradGuard(on_nonfinite="skip", dump_dir=directory), model=model, **options
    )
    (file,) = directory.iterdir()
    return file
