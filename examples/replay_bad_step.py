"""Skip a step whose gradients are not finite, then run it again to see what broke.

    python examples/replay_bad_step.py

One row of the data is a zero, of which the model takes the logarithm. gradguard skips
the step that meets it, so training survives, and saves what it takes to repeat it.
"""

import warnings
from pathlib import Path
from tempfile import mkdtemp

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from gradguard import GradGuard
from gradguard.guard.dump import set_rng_state


class LogModel(LightningModule):
    """Fits a line to the logarithm of its input, seen through dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.1)
        self.line = nn.Linear(4, 1)

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        (x,) = batch
        predicted = self.line(self.drop(x.log()))
        return nn.functional.mse_loss(predicted, x.sum(dim=1, keepdim=True))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def train(dump_dir: Path) -> None:
    rows = torch.rand(256, 4) + 0.5
    rows[100] = 0
    guard = GradGuard(on_nonfinite="skip", dump_dir=dump_dir)
    trainer = Trainer(
        max_epochs=2,
        callbacks=[guard],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = LogModel()
    trainer.fit(model, DataLoader(TensorDataset(rows), batch_size=32))
    print("weights are finite:", bool(model.line.weight.isfinite().all()))


def replay(file: Path) -> None:
    # What gradguard wrote; never load a file of someone you do not trust this way.
    bad = torch.load(file, weights_only=False)
    print(f"step {bad['step']}, batch {bad['batch_idx']}, loss {bad['loss']}")
    print("elements of the gradients:", bad["gradients"])

    model = LogModel()
    model.load_state_dict(bad["weights"])
    set_rng_state(bad["rng"])
    loss = model.training_step(bad["batch"], bad["batch_idx"])
    print(f"the loss again: {loss.item()}")
    try:
        with torch.autograd.detect_anomaly():
            loss = model.training_step(bad["batch"], bad["batch_idx"])
            loss.backward()  # type: ignore[no-untyped-call] # torch's
    except RuntimeError as error:
        print(f"autograd says: {error}")
    print("smallest input of the batch:", bad["batch"][0].min().item())


def main() -> None:
    seed_everything(0)
    warnings.filterwarnings("ignore", message="The 'train_dataloader' does not have")
    dump_dir = Path(mkdtemp())
    train(dump_dir)
    for file in dump_dir.iterdir():
        replay(file)


if __name__ == "__main__":
    main()
