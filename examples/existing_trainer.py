"""Add gradguard to a Trainer that is already there: one callback, nothing else changes.

    python examples/existing_trainer.py
    tensorboard --logdir lightning_logs

The Trainer clips here, and gradguard shows what its clip did to every parameter.
"""

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from gradguard import GradGuard
from gradguard.tensorboard.reader import read_run


class Echo(LightningModule):
    """An LSTM that says at the end of a sequence what it heard at the beginning."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, 32, batch_first=True)
        self.head = nn.Linear(32, 1)

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        (heard,) = batch
        states, _last = self.lstm(heard)
        return nn.functional.mse_loss(self.head(states[:, -1]), heard[:, 0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.5, momentum=0.9)


def main() -> None:
    seed_everything(0)
    sequences = TensorDataset(torch.randn(512, 20, 1))
    trainer = Trainer(
        max_epochs=5,
        gradient_clip_val=0.1,
        callbacks=[GradGuard()],  # the only line gradguard needs
        log_every_n_steps=10,
    )
    trainer.fit(Echo(), DataLoader(sequences, batch_size=32, shuffle=True))

    run = read_run(trainer.log_dir or "")
    print(f"the clip fired on {run.clip_fraction:.0%} of {len(run.steps)} steps")
    print(f"largest total before: {run.total_before.max():.3f}")
    print(f"largest total after: {run.total_after.max():.3f}")
    print(f"largest gradient: {run.names[run.before.max(axis=0).argmax()]}")


if __name__ == "__main__":
    main()
