"""One fit's ledgers, one for each optimizer, and their way to the loggers."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.optim import Optimizer

from gradguard.clipping.clipper import Clipper
from gradguard.clipping.policy import Policy, State, check
from gradguard.fit.cautions import clip_data, unoptimized
from gradguard.fit.epochs import EpochRows
from gradguard.fit.ledger import Ledger
from gradguard.fit.loggers import Loggers
from gradguard.gradients.columns import ParameterColumns, parameters_of
from gradguard.gradients.scaling import scale_in_force
from gradguard.gradients.sharding import Shards
from gradguard.guard.gate import Gate
from gradguard.records.intervals import LOSS_SCALE, threshold_tag
from gradguard.records.schema import Schema

# Steps between two writes where the Trainer names none (`log_every_n_steps=0`).
_STEPS_PER_WRITE = 50

# What wrappers put into the names of the parameters below them.
_WRAPPERS = re.compile(r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


class Books:
    """Open, keep and write the ledgers of a Trainer's optimizers.

    Args:
        trainer: A Trainer that is about to train.
        module: Its LightningModule.
        policies: What clips; empty observes.
        recorder: Where the records go.
        gate: Makes what stops an optimizer's updates that are not finite; None lets
            all pass.
        layer_statistics: Whether to measure weights and gradients by epoch.
        writes_at_update: Whether not to wait for the end of the batch with what is due.

    Raises:
        ValueError: If a pattern of a policy matches no parameter.
    """

    def __init__(  # noqa: PLR0913 (all that a fit is made of)
        self,
        trainer: Any,
        module: Any,
        policies: Sequence[Policy],
        recorder: Loggers,
        gate: Callable[[Optimizer, ParameterColumns], Gate] | None,
        *,
        layer_statistics: bool,
        writes_at_update: bool,
    ) -> None:
        self._trainer = trainer
        self._module = module
        self._policies = policies
        self._recorder = recorder
        self._gate = gate
        self._layer_statistics = layer_statistics
        self.writes_at_update = (
            writes_at_update and gate is None and not layer_statistics
        )
        self.names: Mapping[Tensor, str] = {
            parameter: _WRAPPERS.sub("", name)
            for name, parameter in module.named_parameters()
        }
        check(policies, list(self.names.values()))
        self._ledgers: dict[Optimizer, Ledger] = {}
        self._schemas: dict[Optimizer, Schema] = {}
        self._epochs: dict[Optimizer, EpochRows] = {}

    def __contains__(self, optimizer: object) -> bool:
        """Whether there is a ledger of this optimizer."""
        return optimizer in self._ledgers

    def __iter__(self) -> Iterator[Optimizer]:
        """Iterate over the optimizers there are ledgers of."""
        return iter(self._ledgers)

    def __getitem__(self, optimizer: Optimizer) -> Ledger:
        """Return the ledger of an optimizer."""
        return self._ledgers[optimizer]

    def up_to_date(self, optimizer: Optimizer) -> Ledger:
        """Return the ledger of the parameters an optimizer holds now."""
        ledger = self._ledgers[optimizer]
        if ledger.outdated:
            self._write(optimizer)
            learned = ledger.clipper.state_dict()
            ledger = self.open(optimizer)
            ledger.clipper.load_state_dict(learned)
        return ledger

    def open(
        self, optimizer: Optimizer, columns: ParameterColumns | None = None
    ) -> Ledger:
        """Start an optimizer's ledger, over its parameters or over columns given."""
        if columns is None:
            parameters = parameters_of(optimizer)
            shards = Shards(parameters, self._module)
            columns = ParameterColumns(parameters, self.names, shards)
            if self._layer_statistics:
                self._epochs[optimizer] = EpochRows(
                    self._trainer, optimizer, columns, shards
                )
        self._schemas[optimizer] = self._schema(optimizer, columns)
        ledger = self._ledgers[optimizer] = Ledger(
            optimizer,
            Clipper.over(columns, self._policies),
            self._trainer.log_every_n_steps or _STEPS_PER_WRITE,
            self._gate(optimizer, columns) if self._gate else None,
        )
        return ledger

    def see_update(self, optimizer: Optimizer, loss: object) -> None:
        """Note that an optimizer is about to change its parameters."""
        ledger = self._ledgers[optimizer]
        if not ledger.saw_before:
            ledger = self.up_to_date(optimizer)
        ledger.see_update(self._trainer.global_step, loss)
        ledger.see_loss(loss)
        if ledger.due and self.writes_at_update:
            self._write(optimizer)
        if optimizer in self._epochs:
            self._epochs[optimizer].see_update()

    def see_batch_end(self, loss: object) -> None:
        """Note the loss, and write what is due."""
        for rows in self._epochs.values():
            rows.see_updated()
        for optimizer, ledger in self._ledgers.items():
            if ledger.see_batch_end(loss):
                self._write(optimizer)

    def see_epoch_end(self) -> None:
        """Measure the weights; the next write takes them along."""
        for rows in self._epochs.values():
            rows.see_epoch_end()

    def write(self) -> None:
        """Write everything measured so far, through to the files."""
        for optimizer in self._ledgers:
            self._write(optimizer)
        self._recorder.flush()

    def close(self) -> None:
        """Write what is left."""
        self.write()
        self._recorder.close()

    def state_dict(self) -> list[State]:
        """Return what the policies have learned, by optimizer."""
        return [ledger.clipper.state_dict() for ledger in self._ledgers.values()]

    def load_state_dict(self, states: Sequence[State]) -> None:
        """Take up what the policies of another run had learned."""
        for ledger, state in zip(self._ledgers.values(), states, strict=False):
            ledger.clipper.load_state_dict(state)

    def _schema(self, optimizer: Optimizer, columns: ParameterColumns) -> Schema:
        optimizers = self._trainer.optimizers
        label = f"optimizer_{optimizers.index(optimizer)}" if optimizers[1:] else ""
        return Schema(
            columns.names,
            label,
            clip_data(self._trainer, self._policies),
            unoptimized(self._trainer, self._module),
        )

    def _write(self, optimizer: Optimizer) -> None:
        schema = self._schemas[optimizer]
        with np.errstate(all="ignore"):  # what others have asked NumPy to raise
            records = self._ledgers[optimizer].drain()
            if records is not None:
                self._recorder.write(schema, records, self._in_force(optimizer))
        rows = self._epochs.get(optimizer)
        epochs = rows.drain() if rows else None
        if epochs is not None:
            step = self._trainer.global_step
            self._recorder.write_epochs(schema, epochs, step=step)

    def _in_force(self, optimizer: Optimizer) -> dict[str, float | Tensor]:
        """Return the thresholds and the loss scale as they are now, by tag."""
        thresholds = self._ledgers[optimizer].clipper.thresholds()
        values = {threshold_tag(which): value for which, value in thresholds.items()}
        scale = scale_in_force(self._trainer)
        return values if scale is None else {**values, LOSS_SCALE: scale}
