"""Connect one fit to gradguard: which hooks to use, and what to measure at each."""

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from gradguard.clipping.by_name import check
from gradguard.clipping.policy import Policy, State
from gradguard.fit.cautions import (
    cautions,
    clip_in_words,
    clips_scaled,
    clips_too,
    no_statistics,
    unoptimized,
)
from gradguard.fit.epochs import EpochRows
from gradguard.fit.loggers import Loggers
from gradguard.fit.recorder import Parts, StepRecorder
from gradguard.gradients.columns import ParameterColumns, parameters_of
from gradguard.gradients.scaling import loss_scale, uses_scaler
from gradguard.gradients.sharding import Shards
from gradguard.guard.dump import Dump
from gradguard.guard.gate import Gate, OnNonFinite
from gradguard.hooks.backward import at_backward_end, gradients_complete
from gradguard.hooks.clip_call import at_clip_call
from gradguard.hooks.deepspeed import Fragments, at_engine_step, engine_of
from gradguard.hooks.moment import (
    AFTER_BACKWARD,
    BACKWARD_END,
    BEFORE_OPTIMIZER_STEP,
    ENGINE_STEP,
    Mode,
    moment_of,
)
from gradguard.hooks.takeover import trainer_clip_of
from gradguard.hooks.update import at_update
from gradguard.records.schema import Schema

# What wrappers put into the names of the parameters below them.
_WRAPPERS = re.compile(r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


@dataclass(frozen=True)
class Wanted:
    """What a GradGuard is to do in a fit.

    Attributes:
        policies: What clips; empty observes.
        on_nonfinite: What to do with an update that is not finite.
        layer_statistics: Whether to measure weights and gradients by epoch.
    """

    policies: tuple[Policy, ...]
    on_nonfinite: OnNonFinite
    layer_statistics: bool

    @property
    def observes(self) -> bool:
        """Whether gradients and updates are left as they are."""
        return not self.policies and self.on_nonfinite.action == "record"


class Watch:
    """Watch the optimizers of a Trainer from the start of training to its end.

    Args:
        trainer: A Trainer that is about to train, of either namespace of Lightning.
        module: Its LightningModule.
        callback: The callback on whose behalf this is, for its place among others.
        wanted: What to do.
        loggers: Where the records go.

    Raises:
        ValueError: If a pattern of a policy matches no parameter, or DeepSpeed's engine
            would have to do what it cannot.
    """

    def __init__(
        self,
        trainer: Any,
        module: Any,
        callback: object,
        wanted: Wanted,
        loggers: Loggers,
    ) -> None:
        self._trainer = trainer
        self._module = module
        self._wanted = wanted
        self._loggers = loggers
        self._dump = Dump(wanted.on_nonfinite.dump_dir, module, trainer.global_rank)
        self._recorders: dict[Optimizer, StepRecorder] = {}
        self._batch_idx = 0
        self._said: set[str] = set()
        self._undo: list[Callable[[], None]] = []
        self._forget_raw_backward: Callable[[], None] | None = None
        mode = Mode(trainer, module, callback, bool(wanted.policies))
        self._moment = moment_of(mode)
        self._trainer_clip = trainer_clip_of(mode) if wanted.observes else None
        check(wanted.policies, list(self._names().values()))
        if self._moment == ENGINE_STEP:
            self._listen_to_engine()
        else:
            self._listen()

    def on_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Note which batch the coming backward passes belong to, and new optimizers."""
        self._batch_idx = batch_idx
        for optimizer in self._trainer.optimizers:
            if optimizer not in self._recorders:
                self._adopt(optimizer)
        if self._wanted.on_nonfinite.action != "record":
            self._dump.see_batch_start(batch, batch_idx)

    def on_after_backward(self) -> None:
        """Take the norms before clipping, if now is the moment."""
        if self._forget_raw_backward:  # Lightning runs the passes, and has this hook
            self._forget_raw_backward()
            self._forget_raw_backward = None
        if self._moment == AFTER_BACKWARD:
            self._take_all_before_if_complete()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Take the norms before clipping, if now is the moment."""
        recorder = self._recorders.get(optimizer)
        if recorder is None:
            return
        if uses_scaler(self._trainer):
            recorder.announce()
        if self._moment == BEFORE_OPTIMIZER_STEP:
            recorder.take_before(loss_scale(self._trainer, optimizer))

    def on_batch_end(self, outputs: object) -> None:
        """Note the loss, and write what is due."""
        for recorder in self._recorders.values():
            recorder.on_batch_end(outputs)

    def on_epoch_end(self) -> None:
        """Measure the weights, if that was asked for."""
        for recorder in self._recorders.values():
            recorder.on_epoch_end()

    def write(self) -> None:
        """Write everything measured so far, through to the files."""
        for recorder in self._recorders.values():
            recorder.write()
        self._loggers.flush()

    def close(self) -> None:
        """Write what is left and leave no trace on optimizers and parameters."""
        if self._forget_raw_backward:
            self._forget_raw_backward()
        while self._undo:
            self._undo.pop()()
        self.write()
        self._loggers.close()

    def learned(self) -> list[State]:
        """Return what the policies have learned, by optimizer."""
        return [recorder.learned() for recorder in self._recorders.values()]

    def take_up(self, learned: Sequence[State]) -> None:
        """Go on from what the policies of an earlier fit had learned."""
        for recorder, state in zip(self._recorders.values(), learned, strict=False):
            recorder.take_up(state)

    def _listen(self) -> None:
        """Install the hooks that Lightning has no callback method for."""
        trainer, module = self._trainer, self._module
        for caution in cautions(trainer, module, self._wanted.policies):
            self._say(caution)
        for optimizer in trainer.optimizers:
            self._adopt(optimizer)
        manual = not module.automatic_optimization
        if self._trainer_clip:
            self._undo.append(at_clip_call(trainer, self._clip_for_trainer))
        elif manual:
            self._undo.append(at_clip_call(trainer, self._see_clip_call))
        if self._moment == BACKWARD_END:
            act = self._take_all_before_if_complete
            self._undo.append(at_backward_end(self._names(), act))
        elif self._moment == AFTER_BACKWARD and manual:
            self._forget_raw_backward = at_backward_end(
                self._names(), self._take_all_before
            )

    def _listen_to_engine(self) -> None:
        """Install the one hook there is on DeepSpeed's engine."""
        engine = engine_of(
            self._trainer,
            self._wanted.policies,
            on_nonfinite=self._wanted.on_nonfinite.action,
        )
        if self._wanted.layer_statistics:
            self._say(no_statistics())
        columns = Fragments(engine, self._names())
        schema = self._schema(engine.optimizer, columns)
        recorder = self._record(engine.optimizer, lambda: Parts(columns, schema))

        def before(scale: Tensor) -> None:
            recorder.take_before(scale)
            recorder.announce()

        self._undo.append(
            at_engine_step(engine, before=before, after=recorder.on_scaled)
        )

    def _adopt(self, optimizer: Optimizer) -> None:
        """Start to watch an optimizer, unless it has nothing to update yet."""
        if self._moment == ENGINE_STEP or not parameters_of(optimizer):
            return
        recorder = self._record(optimizer, partial(self._parts, optimizer))
        self._undo.append(at_update(optimizer, recorder.on_update))

    def _record(self, optimizer: Optimizer, make: Callable[[], Parts]) -> StepRecorder:
        recorder = StepRecorder(
            optimizer, self._trainer, self._wanted.policies, self._loggers, make
        )
        self._recorders[optimizer] = recorder
        return recorder

    def _parts(self, optimizer: Optimizer) -> Parts:
        """Return what the parameters that an optimizer holds now are watched with."""
        parameters = parameters_of(optimizer)
        shards = Shards(parameters, self._module)
        columns = ParameterColumns(parameters, self._names(), shards)
        wanted, clip = self._wanted, self._trainer_clip
        return Parts(
            columns,
            self._schema(optimizer, columns),
            None
            if wanted.on_nonfinite.action == "record"
            else Gate(optimizer, columns, wanted.on_nonfinite, self._dump.save),
            EpochRows(self._trainer, optimizer, columns, shards)
            if wanted.layer_statistics
            else None,
            clip(optimizer, columns) if clip else None,
        )

    def _schema(self, optimizer: Optimizer, columns: ParameterColumns) -> Schema:
        optimizers = self._trainer.optimizers
        label = f"optimizer_{optimizers.index(optimizer)}" if optimizers[1:] else ""
        return Schema(
            columns.names,
            label,
            clip_in_words(self._trainer, self._wanted.policies),
            unoptimized(self._trainer, self._module),
        )

    def _names(self) -> Mapping[Tensor, str]:
        """Return the model's parameters by name as they are now, in model order."""
        return {
            parameter: _WRAPPERS.sub("", name)
            for name, parameter in self._module.named_parameters()
        }

    def _take_all_before_if_complete(self) -> None:
        if gradients_complete(self._trainer, self._module, self._batch_idx):
            self._take_all_before()

    def _take_all_before(self) -> None:
        for optimizer, recorder in self._recorders.items():
            # Toggled off, it took no part in the pass, and may have been clipped since.
            if any(p.requires_grad for p in parameters_of(optimizer)):
                recorder.take_before(loss_scale(self._trainer, optimizer))

    def _clip_for_trainer(
        self, optimizer: Any, clip_val: float, algorithm: str
    ) -> bool:
        """Clip in the Trainer's place, to the bit as it would; return whether done."""
        recorder = self._recorders.get(self._unwrapped(optimizer))
        if recorder is None or algorithm != "norm":
            return False
        return recorder.clip_for_trainer(clip_val)

    def _see_clip_call(self, optimizer: Any, *_: object) -> bool:
        """Take the norms where no backward pass was seen, or too early a moment of it."""
        optimizer = self._unwrapped(optimizer)
        if self._wanted.policies:
            self._say(clips_too(self._wanted.policies))
        scale = loss_scale(self._trainer, optimizer)
        if scale is not None:
            self._say(clips_scaled(optimizer))
        recorder = self._recorders.get(optimizer)
        # With DDP's static graph, the first backward pass ends before gradients are
        # reduced; Lightning reduces them between its hook and this call.
        if recorder and not (recorder.saw_before and recorder.last_step >= 0):
            recorder.take_before(scale)
        return False

    def _unwrapped(self, optimizer: Any) -> Any:
        """Return the optimizer that `self.optimizers()` has wrapped."""
        if optimizer in self._recorders:
            return optimizer
        return getattr(optimizer, "optimizer", optimizer)

    def _say(self, sentence: str) -> None:
        """Warn once per fit."""
        if sentence not in self._said:
            self._said.add(sentence)
            warnings.warn(sentence, stacklevel=2)
