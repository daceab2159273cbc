"""The progress bar of `gradguard train`: 80 columns that say how the gradients are."""

import time
from datetime import timedelta

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from typing_extensions import override

from gradguard.callback import GradGuard

# Of the bar, to leave the rest of 80 columns to numbers.
_BAR = 6

Metrics = dict[str, int | str | float | dict[str, float]]


class Progress(RichProgressBar):
    """Shows loss, total norm, share of clipped steps, and the time left of the whole run."""

    def __init__(self) -> None:
        super().__init__()
        self._began_s, self._first_step = 0.0, 0

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began_s, self._first_step = time.monotonic(), trainer.global_step
        super().on_train_start(trainer, pl_module)

    @override
    def configure_columns(self, trainer: Trainer) -> list[object]:
        # Behind these come time and speed of an epoch, which are not those of the run.
        description, bar, batches, *_ = super().configure_columns(trainer)
        bar.bar_width = _BAR
        return [description, bar, batches]

    @override
    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> Metrics:
        metrics = super().get_metrics(trainer, pl_module)
        loss: Metrics = (
            {"loss": metrics["train_loss"]} if "train_loss" in metrics else {}
        )
        return {"left": self._left(trainer), **loss, **_gradients(trainer)}

    def _left(self, trainer: Trainer) -> str:
        """Return the time left of the run, at the pace so far."""
        done = trainer.global_step - self._first_step
        to_do = trainer.estimated_stepping_batches - trainer.global_step
        if not done or to_do == float("inf"):
            return "-:--:--"
        left_s = (time.monotonic() - self._began_s) / done * max(0, to_do)
        return str(timedelta(seconds=round(left_s)))


def _gradients(trainer: Trainer) -> Metrics:
    """Return what was written last, which costs no sync."""
    callbacks: list[object] = trainer.callbacks  # type: ignore[attr-defined] # set by a connector
    guard = next((one for one in callbacks if isinstance(one, GradGuard)), None)
    tally = guard and guard.tally
    if not tally or not tally.steps:
        return {}
    bad: Metrics = {"NaN": f"{tally.nonfinite}"} if tally.nonfinite else {}
    return {
        "total": f"{tally.total_before:.3g}",
        "clipped": f"{tally.clip_fraction:.0%}",
        **bad,
    }
