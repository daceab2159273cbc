"""Go back to the last good checkpoint after the weights were ruined.

    python examples/back_to_good_weights.py

The learning rate is far too high from the third epoch on: the gradients stay finite, and an
update made of them overflows. gradguard keeps the ruined weights from the place of the good
ones, so that training can go on from these, with another learning rate.
"""

import warnings
from pathlib import Path
from tempfile import mkdtemp

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from gradguard import GradGuard


class Line(LightningModule):
    """Fits a line, with a learning rate for each epoch."""

    def __init__(self, rates: list[float]) -> None:
        super().__init__()
        self.rates = rates
        self.line = nn.Linear(4, 1)

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        (x,) = batch
        return nn.functional.mse_loss(self.line(x), x.sum(dim=1, keepdim=True))

    def on_train_epoch_start(self) -> None:
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.rates[self.current_epoch]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.rates[0])


def trainer(directory: Path) -> tuple[Trainer, ModelCheckpoint]:
    checkpoints = ModelCheckpoint(directory, save_last=True)
    guard = GradGuard(on_nonfinite="skip", max_consecutive_skips=100)
    return Trainer(
        max_epochs=4,
        callbacks=[guard, checkpoints],
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    ), checkpoints


def main() -> None:
    seed_everything(0)
    warnings.filterwarnings("ignore", message="The 'train_dataloader' does not have")
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists")
    directory = Path(mkdtemp())
    batches = DataLoader(TensorDataset(torch.randn(64, 4)), batch_size=16)

    first, checkpoints = trainer(directory)
    ruined = Line([0.1, 0.1, 1e38, 1e38])
    first.fit(ruined, batches)
    print("weights are finite:", bool(ruined.line.weight.isfinite().all()))
    print("last good checkpoint:", Path(checkpoints.best_model_path).name)

    second, _ = trainer(directory)
    mended = Line([0.1, 0.1, 0.1, 0.1])
    second.fit(mended, batches, ckpt_path=checkpoints.best_model_path)
    print("weights are finite:", bool(mended.line.weight.isfinite().all()))
    print("epochs:", second.current_epoch, "steps:", second.global_step)


if __name__ == "__main__":
    main()
