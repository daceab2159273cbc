"""One fit: its optimizers' ledgers, called at the moments, written to the loggers."""

import re
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.utils.tensorboard import SummaryWriter

from gradguard.clipping import Policy, in_words
from gradguard.ledger import Ledger
from gradguard.moments import (
    at_update,
    before_moment,
    gradients_complete,
    loss_scale,
)
from gradguard.record import thinned
from gradguard.tensorboard.tags import Schema
from gradguard.tensorboard.writer import EventWriter, interval_scalars

# Steps between two writes where the Trainer names none (`log_every_n_steps=0`).
_STEPS_PER_WRITE = 50

# What torch.compile and FSDP put into the names of the parameters they wrap.
_WRAPPERS = re.compile(r"(_orig_mod|_fsdp_wrapped_module)\.")


class Watch:
    """Watch the optimizers of a Trainer from the start of training to its end.

    Args:
        trainer: A Trainer that is about to train, of either namespace of Lightning.
        module: Its LightningModule.
        callback: The callback on whose behalf this is, for its place among others.
        policies: What clips; empty observes.
        every_n_steps: Write every n-th step, and the interval's spikes.
        max_scalars: Largest number of parameters to write scalars for.
    """

    def __init__(
        self,
        trainer: Any,
        module: Any,
        callback: object,
        *,
        policies: Sequence[Policy],
        every_n_steps: int,
        max_scalars: int,
    ) -> None:
        self._trainer = trainer
        self._module = module
        self._policies = policies
        self._every_n_steps = every_n_steps
        self._batch_idx = 0
        self.before_moment = before_moment(trainer, module, callback)
        self._writers, self._loggers = _destinations(trainer, max_scalars)
        if not policies and not trainer.loggers:
            warnings.warn(
                "GradGuard has nowhere to write to, because the Trainer has no logger: "
                "give it one, such as Trainer(logger=True)",
                stacklevel=2,
            )
        self._ledgers: dict[Optimizer, Ledger] = {}
        self._schemas: dict[Optimizer, Schema] = {}
        for optimizer in trainer.optimizers:
            self._open(optimizer)
        self._undo: list[Callable[[], None]] = [
            at_update(optimizer, partial(self._see_update, optimizer))
            for optimizer in trainer.optimizers
        ]

    def see_batch_start(self, batch_idx: int) -> None:
        """Note which batch the coming backward passes belong to."""
        self._batch_idx = batch_idx

    def see_backward(self) -> None:
        """Take the norms before clipping, if this was the last backward pass."""
        if gradients_complete(self._trainer, self._module, self._batch_idx):
            for optimizer in self._ledgers:
                self.see_before(optimizer)

    def see_before(self, optimizer: Optimizer) -> None:
        """Take the norms before clipping of one optimizer's parameters."""
        scale = loss_scale(self._trainer, optimizer, self.before_moment)
        self._ledgers[optimizer].see_before(scale)

    def see_batch_end(self, loss: Tensor | None) -> None:
        """Note the loss, and write what is due."""
        for optimizer, ledger in self._ledgers.items():
            if ledger.see_batch_end(loss):
                self._write(optimizer)

    def write(self) -> None:
        """Write everything measured so far, through to the files."""
        for optimizer in self._ledgers:
            self._write(optimizer)
        for writer in self._writers:
            writer.flush()

    def close(self) -> None:
        """Write what is left and leave no trace on the optimizers."""
        while self._undo:
            self._undo.pop()()
        self.write()
        for writer in self._writers:
            writer.close()

    def _open(self, optimizer: Optimizer) -> Ledger:
        """Start an optimizer's ledger, over the parameters it holds now."""
        names = {
            parameter: _WRAPPERS.sub("", name)
            for name, parameter in self._module.named_parameters()
        }
        interval = self._trainer.log_every_n_steps or _STEPS_PER_WRITE
        ledger = Ledger(optimizer, names, self._policies, interval)
        optimizers = self._trainer.optimizers
        label = f"optimizer_{optimizers.index(optimizer)}" if optimizers[1:] else ""
        self._schemas[optimizer] = Schema(ledger.names, label, in_words(self._policies))
        self._ledgers[optimizer] = ledger
        return ledger

    def _see_update(self, optimizer: Optimizer) -> None:
        ledger = self._ledgers[optimizer]
        if ledger.outgrown:
            self._write(optimizer)
            ledger = self._open(optimizer)
        ledger.see_update(self._trainer.global_step)

    def _write(self, optimizer: Optimizer) -> None:
        records = self._ledgers[optimizer].drain()
        if records is None:
            return
        schema = self._schemas[optimizer]
        scalars = {
            schema.scalar_tag(tag): value
            for tag, value in interval_scalars(records).items()
        }
        kept = thinned(records, self._every_n_steps)
        for writer in self._writers:
            writer.write(schema, kept, scalars)
        for logger in self._loggers:
            logger.log_metrics(scalars, step=int(records.steps[-1]))


def _destinations(
    trainer: Any, max_scalars: int
) -> tuple[list[EventWriter], list[Any]]:
    """Sort the loggers into event files and all others; only rank zero writes."""
    writers, others = [], []
    for logger in trainer.loggers if trainer.is_global_zero else ():
        experiment = getattr(logger, "experiment", None)
        if isinstance(experiment, SummaryWriter):
            # Private, and the only way to write an event with tensors and metadata
            # through the writer that owns the directory; Lightning calls it itself.
            sink = experiment._get_file_writer()  # type: ignore[no-untyped-call]
            writers.append(EventWriter(sink, Path(experiment.log_dir), max_scalars))
        else:
            others.append(logger)
    return writers, others
