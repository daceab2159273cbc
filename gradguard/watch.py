"""One fit: its optimizers' ledgers, called at the moments, written to the loggers."""

import re
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from gradguard.by_name import check
from gradguard.cautions import (
    cautions,
    clip_in_words,
    clips_scaled,
    clips_too,
    no_statistics,
    unoptimized,
)
from gradguard.clipper import Clipper
from gradguard.clipping import Policy, State
from gradguard.columns import Columns, parameters_of
from gradguard.deepspeed import ENGINE_STEP, Fragments, at_engine_step, engine_of
from gradguard.dump import Dump
from gradguard.epochs import EpochRows
from gradguard.ledger import Ledger
from gradguard.moments import (
    BACKWARD_END,
    at_backward_end,
    at_clip_call,
    at_update,
    before_moment,
    gradients_complete,
)
from gradguard.nonfinite import Gate, OnNonFinite
from gradguard.recorder import Recorder
from gradguard.scaling import loss_scale, scale_in_force, uses_scaler
from gradguard.sharding import Shards
from gradguard.tensorboard.tags import LOSS_SCALE, Schema, threshold_tag

# Steps between two writes where the Trainer names none (`log_every_n_steps=0`).
_STEPS_PER_WRITE = 50

# What wrappers put into the names of the parameters below them.
_WRAPPERS = re.compile(r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


class Watch:
    """Watch the optimizers of a Trainer from the start of training to its end.

    Args:
        trainer: A Trainer that is about to train, of either namespace of Lightning.
        module: Its LightningModule.
        callback: The callback on whose behalf this is, for its place among others.
        policies: What clips; empty observes.
        recorder: Where the records go.
        on_nonfinite: What to do with an update that is not finite.
        layer_statistics: Whether to measure weights and gradients by epoch.
    """

    def __init__(  # noqa: PLR0913 (all that a fit is made of)
        self,
        trainer: Any,
        module: Any,
        callback: object,
        policies: Sequence[Policy],
        recorder: Recorder,
        on_nonfinite: OnNonFinite,
        *,
        layer_statistics: bool = False,
    ) -> None:
        self._trainer = trainer
        self._module = module
        self._policies = policies
        self._recorder = recorder
        self._on_nonfinite = on_nonfinite
        self._dump = Dump(on_nonfinite.dump_dir, module, trainer.global_rank)
        self._batch_idx = 0
        self._said: set[str] = set()
        self.before_moment = before_moment(trainer, module, callback)
        self._names = {
            parameter: _WRAPPERS.sub("", name)
            for name, parameter in module.named_parameters()
        }
        check(policies, list(self._names.values()))
        self._ledgers: dict[Optimizer, Ledger] = {}
        self._schemas: dict[Optimizer, Schema] = {}
        self._layer_statistics = layer_statistics
        self._epochs: dict[Optimizer, EpochRows] = {}
        self._undo: list[Callable[[], None]] = []
        self._forget_raw_backward: Callable[[], None] | None = None
        engine = engine_of(trainer, policies, on_nonfinite=on_nonfinite.action)
        if engine is not None:
            self.before_moment = ENGINE_STEP
            if layer_statistics:
                self._say(no_statistics())
            ledger = self._open(engine.optimizer, Fragments(engine, self._names))
            self._undo.append(
                at_engine_step(engine, ledger, lambda: int(trainer.global_step))
            )
            return
        for caution in cautions(trainer, module, policies):
            self._say(caution)
        for optimizer in trainer.optimizers:
            self._open(optimizer)
            update = partial(self._see_update, optimizer)
            self._undo.append(at_update(optimizer, update))
        if not module.automatic_optimization:
            self._undo.append(at_clip_call(trainer, self._see_clip_call))
        if self.before_moment == BACKWARD_END:
            self._undo.append(at_backward_end(self._names, self.see_backward))
        elif not module.automatic_optimization:
            self._forget_raw_backward = at_backward_end(self._names, self._see_all)

    def see_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Note which batch the coming backward passes belong to."""
        self._batch_idx = batch_idx
        self._dump.see_batch_start(batch, batch_idx)

    def see_backward(self) -> None:
        """Take the norms before clipping, if this was the last backward pass."""
        if self._forget_raw_backward:  # Lightning runs the passes, and has this hook
            self._forget_raw_backward()
            self._forget_raw_backward = None
        if gradients_complete(self._trainer, self._module, self._batch_idx):
            self._see_all()

    def see_before(self, optimizer: Optimizer) -> None:
        """Take the norms before clipping of one optimizer's parameters."""
        self._ledgers[optimizer].see_before(loss_scale(self._trainer, optimizer))

    def see_announced(self, optimizer: Optimizer) -> None:
        """Note that the optimizer is about to step, unless a scaler skips that."""
        if uses_scaler(self._trainer):
            self._ledgers[optimizer].see_announced(self._trainer.global_step)

    def see_batch_end(self, loss: Tensor | None) -> None:
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

    def state_dict(self) -> list[State]:
        """Return what the policies have learned, by optimizer."""
        return [ledger.clipper.state_dict() for ledger in self._ledgers.values()]

    def load_state_dict(self, states: Sequence[State]) -> None:
        """Take up what the policies of another run had learned."""
        for ledger, state in zip(self._ledgers.values(), states, strict=False):
            ledger.clipper.load_state_dict(state)

    def close(self) -> None:
        """Write what is left and leave no trace on optimizers and parameters."""
        if self._forget_raw_backward:
            self._forget_raw_backward()
        while self._undo:
            self._undo.pop()()
        self.write()
        self._recorder.close()

    def _open(self, optimizer: Optimizer, columns: Columns | None = None) -> Ledger:
        """Start an optimizer's ledger, over the parameters it holds now."""
        if columns is None:
            parameters = parameters_of(optimizer)
            shards = Shards(parameters, self._module)
            columns = Columns(parameters, self._names, shards)
            if self._layer_statistics:
                self._epochs[optimizer] = EpochRows(
                    self._trainer, optimizer, columns, shards
                )
        clipper = Clipper.over(columns, self._policies)
        interval = self._trainer.log_every_n_steps or _STEPS_PER_WRITE
        gate = None
        if self._on_nonfinite.action != "record":
            gate = Gate(optimizer, columns, self._on_nonfinite, self._dump.save)
        ledger = Ledger(optimizer, clipper, interval, gate)
        optimizers = self._trainer.optimizers
        label = f"optimizer_{optimizers.index(optimizer)}" if optimizers[1:] else ""
        schema = Schema(
            columns.names,
            label,
            clip_in_words(self._trainer, self._policies),
            unoptimized(self._trainer, self._module),
        )
        self._ledgers[optimizer], self._schemas[optimizer] = ledger, schema
        return ledger

    def _see_all(self) -> None:
        for optimizer in self._ledgers:
            # Toggled off, it took no part in the pass, and may have been clipped since.
            if any(p.requires_grad for p in parameters_of(optimizer)):
                self.see_before(optimizer)

    def _see_clip_call(self, optimizer: Any) -> None:
        """Take the norms where no backward pass was seen, or too early a moment of it."""
        if optimizer not in self._ledgers:
            optimizer = optimizer.optimizer  # what `self.optimizers()` gives wraps it
        if self._policies:
            self._say(clips_too(self._policies))
        if loss_scale(self._trainer, optimizer) is not None:
            self._say(clips_scaled(optimizer))
        # With DDP's static graph, the first backward pass ends before gradients are
        # reduced; Lightning reduces them between its hook and this call.
        if not self._ledgers[optimizer].saw_before:
            self.see_before(optimizer)

    def _see_update(self, optimizer: Optimizer, loss: object) -> None:
        ledger = self._ledgers[optimizer]
        if ledger.outgrown:
            self._write(optimizer)
            learned = ledger.clipper.state_dict()
            ledger = self._open(optimizer)
            ledger.clipper.load_state_dict(learned)
        ledger.see_update(self._trainer.global_step, loss)
        if optimizer in self._epochs:
            self._epochs[optimizer].see_update()

    def _write(self, optimizer: Optimizer) -> None:
        records = self._ledgers[optimizer].drain()
        if records is not None:
            self._recorder.write(
                self._schemas[optimizer], records, self._in_force(optimizer)
            )
        rows = self._epochs.get(optimizer)
        epochs = rows.drain() if rows else None
        if epochs is not None:
            step = self._trainer.global_step
            self._recorder.write_epochs(self._schemas[optimizer], epochs, step=step)

    def _in_force(self, optimizer: Optimizer) -> dict[str, float | Tensor]:
        """Return the thresholds and the loss scale as they are now, by tag."""
        thresholds = self._ledgers[optimizer].clipper.thresholds()
        values = {threshold_tag(which): value for which, value in thresholds.items()}
        scale = scale_in_force(self._trainer)
        return values if scale is None else {**values, LOSS_SCALE: scale}

    def _say(self, sentence: str) -> None:
        """Warn once per fit."""
        if sentence not in self._said:
            self._said.add(sentence)
            warnings.warn(sentence, stacklevel=2)
