"""The progress bar of a run."""

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from typing_extensions import override


class Progress(RichProgressBar):
    """Shows the training loss beside the bar, and no more: it fits 80 columns then."""

    @override
    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        metrics = super().get_metrics(trainer, pl_module)
        return {"loss": metrics["train_loss"]} if "train_loss" in metrics else {}
