"""What of a Trainer gradguard reads, while one trains."""

from collections.abc import Sequence
from typing import Any, Protocol

from torch.optim import Optimizer


class Trainer(Protocol):
    """A Trainer of `lightning.pytorch` or `pytorch_lightning`: what gradguard reads of it.

    Both have these attributes and share no class that says so. Lightning sets some from
    outside its class, where mypy cannot see them, so its own Trainer has to be cast.
    """

    @property
    def callbacks(self) -> Sequence[object]:
        """All callbacks, in the order in which they are called."""

    @property
    def loggers(self) -> Sequence[object]:
        """Where metrics are logged to; on ranks above zero too, to no effect."""

    @property
    def optimizers(self) -> Sequence[Optimizer]:
        """The optimizers, from the start of training on; a strategy may replace them."""

    @property
    def precision_plugin(self) -> Any:
        """What scales losses, clips and calls the optimizers; an object of Lightning's."""

    @property
    def strategy(self) -> Any:
        """What spreads training over processes; an object of Lightning's."""

    @property
    def is_global_zero(self) -> bool:
        """Whether this process is the one of rank zero."""

    @property
    def global_rank(self) -> int:
        """The number of this process among all, from 0."""

    @property
    def global_step(self) -> int:
        """How many optimizer steps were taken, by all optimizers together."""

    @property
    def current_epoch(self) -> int:
        """How many epochs were completed before this one."""

    @property
    def max_steps(self) -> int:
        """The optimizer step that is the last one; -1 for no limit."""

    @property
    def is_last_batch(self) -> bool:
        """Whether the batch now trained on is the last of its epoch."""

    @property
    def accumulate_grad_batches(self) -> int:
        """Backward passes for each optimizer step."""

    @property
    def log_every_n_steps(self) -> int:
        """Optimizer steps from one write to the loggers to the next."""

    @property
    def gradient_clip_val(self) -> float | None:
        """The Trainer's own threshold; None or 0 if it does not clip."""

    @property
    def gradient_clip_algorithm(self) -> str | None:
        """What is held to that threshold: "norm", also if None, or "value"."""
