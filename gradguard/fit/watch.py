"""Connect one fit to gradguard: which hooks to use, and what to measure at each."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, Concatenate, NamedTuple, ParamSpec

from torch import Tensor
from torch.optim import Optimizer

from gradguard.clipping.policy import State, check
from gradguard.fit.books import Books
from gradguard.fit.cautions import (
    cautions,
    clips_scaled,
    clips_too,
    no_statistics,
)
from gradguard.fit.checkpoints import keep_good_checkpoints
from gradguard.fit.context import context
from gradguard.fit.herald import Herald
from gradguard.fit.parts import Parts, schema_of
from gradguard.fit.recorder import StepRecorder
from gradguard.fit.wanted import Wanted
from gradguard.gradients.columns import parameters_of
from gradguard.hooks.backward import (
    PassEnds,
    gradients_complete,
)
from gradguard.hooks.clip_call import at_clip_call
from gradguard.hooks.deepspeed import Fragments, at_engine_step, engine_of
from gradguard.hooks.loss_scale import loss_scale, uses_scaler
from gradguard.hooks.moment import (
    AFTER_BACKWARD,
    BACKWARD_END,
    BEFORE_OPTIMIZER_STEP,
    ENGINE_STEP,
    Mode,
    moment_of,
)
from gradguard.hooks.takeover import trainer_clips
from gradguard.hooks.update import at_any_step

_P = ParamSpec("_P")

# Windows of accumulation after which an optimizer that has done nothing is looked at.
_PATIENCE = 4

# Optimizers beside the Trainer's that are watched; some libraries have one a parameter.
_MOST_OTHERS = 8


def _harmless(
    method: Callable[Concatenate["Watch", _P], None],
) -> Callable[Concatenate["Watch", _P], None]:
    """Let what goes wrong in an observer's method cost records, and nothing else."""

    @wraps(method)
    def guarded(self: "Watch", /, *args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            method(self, *args, **kwargs)
        except Warning:  # somebody wants them to be errors
            raise
        except Exception as error:  # whatever the tensors and loggers of others raise
            self.fit.trouble(error)

    return guarded


class Memory(NamedTuple):
    """Where a fit is.

    Attributes:
        learned: What the policies have learned, by optimizer.
        last_steps: The step recorded last, by optimizer.
    """

    learned: Sequence[State] = ()
    last_steps: Sequence[int] = ()


class Watch:
    """Watch the optimizers of a Trainer from the start of training to its end.

    Args:
        trainer: A Trainer that is about to train, of either namespace of Lightning.
        module: Its LightningModule.
        callback: The callback on whose behalf this is, for its place among others.
        wanted: What to do.

    Attributes:
        fit: What all that watches the fit shares.
        books: The recorders.

    Raises:
        ValueError: If a pattern of a policy matches no parameter, or DeepSpeed's engine
            would have to do what it cannot.
    """

    def __init__(
        self, trainer: Any, module: Any, callback: object, wanted: Wanted
    ) -> None:
        self.fit = context(trainer, module, callback, wanted, log=True)
        check(wanted.policies, list(self.fit.names().values()))
        self._batch_idx = 0
        self._batches = 0
        self._undo: list[Callable[[], None]] = []
        self._pass_ends: PassEnds | None = None
        mode = Mode(trainer, module, callback, bool(wanted.policies))
        self._moment = moment_of(mode)
        self._trainer_clips = trainer_clips(mode) if wanted.observes else None
        self.books = Books(self.fit, self._trainer_clips)
        try:
            if self._moment == ENGINE_STEP:
                self._listen_to_engine()
            else:
                self._listen()
            if wanted.stops:
                keep_good_checkpoints(self.fit)
        except BaseException:
            self._leave()
            raise

    @property
    def herald(self) -> Herald | None:
        """Who tells the verdict; None where none is wanted."""
        return self.fit.loggers.herald if self.fit.loggers else None

    @_harmless
    def on_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Note which batch the coming backward passes belong to, and new optimizers."""
        self._batch_idx = batch_idx
        if self._moment != ENGINE_STEP:
            self.books.keep_up()
        for recorder in self.books:
            recorder.on_batch_start(is_first=batch_idx == 0)
        if self.fit.wanted.stops:
            self.fit.dump.see_batch_start(batch, batch_idx, self.books.updates)
        if self._pass_ends and batch_idx == 0:
            self._pass_ends.on_epoch_start()
        if not self._batches:
            self.books.look_at_parameters()

    @_harmless
    def on_after_backward(self) -> None:
        """Take the norms before clipping, if now is the moment."""
        if self._pass_ends:
            self._pass_ends.on_after_backward()
        if self._moment == AFTER_BACKWARD:
            self._take_all_before_if_complete()

    @_harmless
    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Take the norms before clipping, if now is the moment."""
        recorder = self.books.get(optimizer)
        if recorder is None:
            return
        if uses_scaler(self.fit.trainer):
            recorder.announce()
        if self._moment == BEFORE_OPTIMIZER_STEP:
            recorder.take_before(loss_scale(self.fit.trainer, optimizer))

    @_harmless
    def on_batch_end(self, outputs: object) -> None:
        """Note the loss, and write what is due."""
        for recorder in self.books:
            recorder.on_batch_end(outputs)
        if self._pass_ends:
            missed = any(recorder.missed_before for recorder in self.books)
            self._pass_ends.on_batch_end(missed=missed)
        self.books.say_what_is_out_of_reach()
        self._batches += 1
        if self._batches == _PATIENCE * self.fit.trainer.accumulate_grad_batches:
            self.books.say_what_was_not_seen()

    @_harmless
    def on_epoch_end(self) -> None:
        """Measure the weights, if that was asked for."""
        for recorder in self.books:
            recorder.on_epoch_end()

    @_harmless
    def write(self) -> None:
        """Write everything measured so far, through to the files."""
        for recorder in self.books:
            recorder.write()
        if self.fit.loggers:
            self.fit.loggers.flush()

    def close(self) -> None:
        """Write what is left and leave no trace on optimizers and parameters."""
        self._leave()
        self.write()
        self._finish()

    def memory(self) -> Memory:
        """Return where the fit is, to go on from there; nowhere, if that is out of reach."""
        try:
            return Memory(self.books.state_dict(), self.books.last_steps())
        except Exception as error:  # of a device that the user's own error has broken
            self.fit.trouble(error)
            return Memory()

    def recall(self, memory: Memory) -> None:
        """Go on from where an earlier fit, or a checkpoint of this one, was."""
        self.books.load_state_dict(memory.learned, memory.last_steps)

    @_harmless
    def _leave(self) -> None:
        if self._pass_ends:
            self._pass_ends.close()
        while self._undo:
            self._undo.pop()()
        for recorder in self.books:
            recorder.close()

    @_harmless
    def _finish(self) -> None:
        if self.fit.loggers:
            self.fit.loggers.close()
        self.books.say_what_is_out_of_reach()
        if self._batches:
            self.books.say_what_was_not_seen()

    def _listen(self) -> None:
        """Install the hooks that Lightning has no callback method for."""
        trainer, module = self.fit.trainer, self.fit.module
        for caution in cautions(trainer, module, self.fit.wanted.policies):
            self.fit.say(caution)
        self.books.keep_up()
        self._undo.append(at_any_step(self.books.meet))
        manual = not module.automatic_optimization
        if self._trainer_clips:
            self._undo.append(at_clip_call(trainer, self._clip_for_trainer))
        elif manual:
            self._undo.append(at_clip_call(trainer, self._see_clip_call))
        if self._moment == BACKWARD_END:
            self._pass_ends = PassEnds(
                self.fit.names, self._take_all_before_if_complete, always=True
            )
        elif self._moment == AFTER_BACKWARD and manual:
            self._pass_ends = PassEnds(
                self.fit.names, self._take_all_before, always=False
            )

    def _listen_to_engine(self) -> None:
        """Install the one hook there is on DeepSpeed's engine."""
        fit = self.fit
        engine = engine_of(
            fit.trainer,
            fit.wanted.policies,
            stops=fit.wanted.asks if fit.wanted.stops else "",
        )
        if fit.wanted.layer_statistics:
            fit.say(no_statistics())
        columns = Fragments(engine, fit.names())
        parts = Parts(columns, schema_of(columns, fit, label=""))
        recorder = StepRecorder(engine.optimizer, fit, lambda _: parts)
        self.books.add(recorder)

        def before(scale: Tensor) -> None:
            recorder.take_before(scale)
            recorder.announce()

        self._undo.append(
            at_engine_step(engine, before=before, after=recorder.on_scaled)
        )

    def _take_all_before_if_complete(self) -> None:
        if gradients_complete(self.fit.trainer, self.fit.module, self._batch_idx):
            self._take_all_before()

    @_harmless
    def _take_all_before(self) -> None:
        for recorder in self.books:
            # Toggled off, it took no part in the pass, and may have been clipped since.
            if any(p.requires_grad for p in parameters_of(recorder.optimizer)):
                recorder.take_before(loss_scale(self.fit.trainer, recorder.optimizer))

    def _clip_for_trainer(
        self, optimizer: Any, clip_val: float, algorithm: str
    ) -> bool:
        """Clip in the Trainer's place, to the bit as it would; return whether done."""
        recorder = self.books.get(self._unwrapped(optimizer))
        if recorder is None or algorithm != "norm":
            return False
        return recorder.clip_for_trainer(clip_val)

    def _see_clip_call(self, optimizer: Any, *_: object) -> bool:
        """Take the norms where no backward pass was seen, or too early a moment of it."""
        self._see_call_of(self._unwrapped(optimizer))
        return False

    @_harmless
    def _see_call_of(self, optimizer: Any) -> None:
        policies = self.fit.wanted.policies
        if policies:
            self.fit.say(clips_too(policies))
        scale = loss_scale(self.fit.trainer, optimizer)
        if scale is not None:
            self.fit.say(clips_scaled(optimizer))
        recorder = self.books.get(optimizer)
        # With DDP's static graph, the first backward pass ends before gradients are
        # reduced; Lightning reduces them between its hook and this call.
        if recorder and not (recorder.saw_before and recorder.last_step >= 0):
            recorder.take_before(scale)

    def _unwrapped(self, optimizer: Any) -> Any:
        """Return the optimizer that `self.optimizers()` has wrapped."""
        if self.books.get(optimizer):
            return optimizer
        return getattr(optimizer, "optimizer", optimizer)
