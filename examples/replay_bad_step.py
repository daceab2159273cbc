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

import gradguard


class LogModel(LightningModule):
    """Fits a line to the logarithm of its input, seen through dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.1)
        self.line = nn.Linear(4, 1)

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        (x,) = batch
        predicted = self.line(self.drop(x.log()))
        loss = nn.functional.mse_loss(predicted, x.sum(dim=1, keepdim=True))
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def train(dump_dir: Path) -> LogModel:
    rows = torch.rand(256, 4) + 0.5
    rows[100] = 0
    guard = gradguard.GradGuard(on_nonfinite="skip", dump_dir=dump_dir)
    trainer = Trainer(
        max_epochs=2,
        callbacks=[guard],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = LogModel()
    trainer.fit(model, DataLoader(TensorDataset(rows), batch_size=32))
    return model


def main() -> None:
    seed_everything(0)
    warnings.filterwarnings("ignore", message="The 'train_dataloader' does not have")
    dump_dir = Path(mkdtemp())
    model = train(dump_dir)
    print("weights are finite:", bool(model.line.weight.isfinite().all()))

    (file,) = dump_dir.iterdir()
    found = gradguard.replay(file, LogModel())
    print("reproduced:", found.reproduced)
    cause = found.cause
    if cause and cause.line:
        print(f"broke: {cause.name}, {cause.direction} pass, in: {cause.line.text}")
        print("try:", cause.advice)
    if found.samples:
        print("samples:", [sample.index for sample in found.samples.culprits])

    print("The same from a shell, and as a page:")
    print(f"  gradguard replay {file} --module replay_bad_step:LogModel")


if __name__ == "__main__":
    main()
