"""One fit as its moments come: what to take down at each, and how to hear of them."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

from torch.optim import Optimizer

from gradguard.clipping.policy import Policy
from gradguard.fit.books import Books
from gradguard.fit.cautions import cautions, clips_scaled, clips_too, no_statistics
from gradguard.fit.deepspeed import ENGINE_STEP, Fragments, at_engine_step, engine_of
from gradguard.fit.loggers import Loggers
from gradguard.gradients.columns import ParameterColumns, parameters_of
from gradguard.gradients.scaling import loss_scale, uses_scaler
from gradguard.guard.dump import Dump
from gradguard.guard.gate import Gate, OnNonFinite
from gradguard.hooks.idle import BATCH_END, without_idle
from gradguard.hooks.moment import (
    BACKWARD_END,
    BEFORE_OPTIMIZER_STEP,
    at_backward_end,
    at_clip_call,
    at_update,
    before_moment,
    gradients_complete,
)
from gradguard.hooks.takeover import clip_chain, nothing_else_clips


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

    Attributes:
        before_moment: When norms before are taken, where a policy does not take them.
        books: What has been taken down.
    """

    def __init__(  # noqa: PLR0913 (all that a fit is made of)
        self,
        trainer: Any,
        module: Any,
        callback: object,
        policies: tuple[Policy, ...],
        recorder: Loggers,
        on_nonfinite: OnNonFinite,
        *,
        layer_statistics: bool = False,
    ) -> None:
        self._trainer = trainer
        self._module = module
        self._policies = policies
        self._on_nonfinite = on_nonfinite
        self._dump = Dump(on_nonfinite.dump_dir, module, trainer.global_rank)
        self._batch_idx = 0
        self._said: set[str] = set()
        self._undo: list[Callable[[], None]] = []
        self._forget_raw_backward: Callable[[], None] | None = None
        self._hide_idle: Callable[[], Callable[[], None]] | None = None
        self.before_moment = before_moment(trainer, module, callback)
        observes = not policies and on_nonfinite.action == "record"
        self._clip_is_all = (
            observes
            and self.before_moment == BEFORE_OPTIMIZER_STEP
            and nothing_else_clips(trainer, module, callback)
        )
        self._clip_chain = clip_chain(trainer)
        self.books = Books(
            trainer,
            module,
            policies,
            recorder,
            None if on_nonfinite.action == "record" else self._gate,
            layer_statistics=layer_statistics,
            # Where its closure tells the loss of every update.
            writes_at_update=module.automatic_optimization and not uses_scaler(trainer),
        )
        engine = engine_of(trainer, policies, on_nonfinite=on_nonfinite.action)
        if engine is None:
            self._listen()
            self._hide_idle = partial(without_idle, callback, self._needed())
            return
        self.before_moment = ENGINE_STEP
        if layer_statistics:
            self._say(no_statistics())
        ledger = self.books.open(engine.optimizer, Fragments(engine, self.books.names))
        self._undo.append(
            at_engine_step(engine, ledger, lambda: int(trainer.global_step))
        )

    def see_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Note which batch the coming backward passes belong to, and new optimizers."""
        self._batch_idx = batch_idx
        if self._hide_idle:  # not before all others are set up, who may want the hooks
            self._undo.append(self._hide_idle())
            self._hide_idle = None
        for optimizer in self._trainer.optimizers:
            if optimizer not in self.books:
                self._adopt(optimizer)
        if self._on_nonfinite.action != "record":
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
        if optimizer not in self.books:
            return
        ledger = self.books.up_to_date(optimizer)
        if self._clip_is_all:
            ledger.see_before_clip(exact=bool(self._trainer.gradient_clip_val))
        else:
            ledger.see_before(loss_scale(self._trainer, optimizer))

    def see_announced(self, optimizer: Optimizer) -> None:
        """Note that the optimizer is about to step, unless a scaler skips that."""
        if uses_scaler(self._trainer) and optimizer in self.books:
            self.books[optimizer].see_announced(self._trainer.global_step)

    def close(self) -> None:
        """Write what is left and leave no trace on optimizers and parameters."""
        if self._forget_raw_backward:
            self._forget_raw_backward()
        while self._undo:
            self._undo.pop()()
        self.books.close()

    def _needed(self) -> set[str]:
        """Return the hooks to be called by, of those that can be done without."""
        needed = set() if self._policies else {self.before_moment}
        if uses_scaler(self._trainer):
            needed |= {BEFORE_OPTIMIZER_STEP, BATCH_END}
        if not self.books.writes_at_update:
            needed.add(BATCH_END)
        return needed

    def _listen(self) -> None:
        """Have oneself called at the moments that no hook of a callback is for."""
        trainer, module = self._trainer, self._module
        for caution in cautions(trainer, module, self._policies):
            self._say(caution)
        for optimizer in trainer.optimizers:
            self._adopt(optimizer)
        if self._clip_is_all:
            self._undo.append(at_clip_call(trainer, self._see_trainer_clip))
        elif not module.automatic_optimization:
            self._undo.append(at_clip_call(trainer, self._see_clip_call))
        names = self.books.names
        if self.before_moment == BACKWARD_END:
            self._undo.append(at_backward_end(names, self.see_backward))
        elif not module.automatic_optimization:
            self._forget_raw_backward = at_backward_end(names, self._see_all)

    def _adopt(self, optimizer: Optimizer) -> None:
        """Start to watch an optimizer, unless it has nothing to update yet."""
        if self.before_moment == ENGINE_STEP or not parameters_of(optimizer):
            return
        self.books.open(optimizer)
        update = partial(self.books.see_update, optimizer)
        self._undo.append(at_update(optimizer, update))

    def _gate(self, optimizer: Optimizer, columns: ParameterColumns) -> Gate:
        return Gate(optimizer, columns, self._on_nonfinite, self._dump.save)

    def _see_all(self) -> None:
        for optimizer in self.books:
            # Toggled off, it took no part in the pass, and may have been clipped since.
            if any(p.requires_grad for p in parameters_of(optimizer)):
                self.see_before(optimizer)

    def _see_trainer_clip(
        self, optimizer: Any, clip_val: float, algorithm: str
    ) -> bool:
        """Clip in the Trainer's place, to the bit as it would; return whether done."""
        optimizer = self._unwrapped(optimizer)
        if optimizer not in self.books or algorithm != "norm":
            return False
        if clip_chain(self._trainer) != self._clip_chain:
            return False
        return self.books[optimizer].see_clip(clip_val)

    def _see_clip_call(self, optimizer: Any, *_: object) -> bool:
        """Take the norms where no backward pass was seen, or too early a moment of it."""
        optimizer = self._unwrapped(optimizer)
        if self._policies:
            self._say(clips_too(self._policies))
        if loss_scale(self._trainer, optimizer) is not None:
            self._say(clips_scaled(optimizer))
        # With DDP's static graph, the first backward pass ends before gradients are
        # reduced; Lightning reduces them between its hook and this call.
        if optimizer in self.books and not self.books[optimizer].saw_before_again:
            self.see_before(optimizer)
        return False

    def _unwrapped(self, optimizer: Any) -> Any:
        """Return the optimizer that `self.optimizers()` has wrapped."""
        if optimizer in self.books:
            return optimizer
        return getattr(optimizer, "optimizer", optimizer)

    def _say(self, sentence: str) -> None:
        """Warn once per fit."""
        if sentence not in self._said:
            self._said.add(sentence)
            warnings.warn(sentence, stacklevel=2)
