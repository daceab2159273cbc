"""Connect one fit to gradguard: which hooks to use, and what to measure at each."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, Concatenate, ParamSpec
from weakref import WeakSet

from torch import Tensor
from torch.optim import Optimizer

from gradguard.clipping.policy import State, check
from gradguard.fit.cautions import (
    cautions,
    clips_scaled,
    clips_too,
    no_statistics,
    unseen,
    unseen_parameters,
    updates_elsewhere,
)
from gradguard.fit.context import context
from gradguard.fit.movement import Movement
from gradguard.fit.parts import Parts, parts_of, schema_of
from gradguard.fit.recorder import StepRecorder
from gradguard.fit.wanted import Wanted
from gradguard.gradients.columns import parameters_of
from gradguard.hooks.backward import (
    PassEnds,
    gradients_complete,
    in_backward,
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


class Watch:
    """Watch the optimizers of a Trainer from the start of training to its end.

    Args:
        trainer: A Trainer that is about to train, of either namespace of Lightning.
        module: Its LightningModule.
        callback: The callback on whose behalf this is, for its place among others.
        wanted: What to do.

    Attributes:
        fit: What all that watches the fit shares.

    Raises:
        ValueError: If a pattern of a policy matches no parameter, or DeepSpeed's engine
            would have to do what it cannot.
    """

    def __init__(
        self, trainer: Any, module: Any, callback: object, wanted: Wanted
    ) -> None:
        self.fit = context(trainer, module, callback, wanted, log=True)
        check(wanted.policies, list(self.fit.names().values()))
        self._recorders: dict[Optimizer, StepRecorder] = {}
        # Of optimizers that are not watched by themselves: inside others, or of others.
        self._passed: WeakSet[Optimizer] = WeakSet()
        self._others: list[Optimizer] = []
        self._adopted: list[Optimizer] = []
        # Names of what optimizers of a kind update, out of reach, since it was said last.
        self._elsewhere: dict[str, list[str]] = {}
        self._movement: Movement | None = None
        # Of optimizers that were watched elsewhere, and have not stepped here yet.
        self._waiting: list[tuple[State, int]] = []
        self._batch_idx = 0
        self._batches = 0
        self._undo: list[Callable[[], None]] = []
        self._pass_ends: PassEnds | None = None
        mode = Mode(trainer, module, callback, bool(wanted.policies))
        self._moment = moment_of(mode)
        self._trainer_clips = trainer_clips(mode) if wanted.observes else None
        try:
            if self._moment == ENGINE_STEP:
                self._listen_to_engine()
            else:
                self._listen()
        except BaseException:
            self._leave()
            raise

    @_harmless
    def on_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Note which batch the coming backward passes belong to, and new optimizers."""
        self._batch_idx = batch_idx
        if self._moment != ENGINE_STEP and self._adopted != self.fit.trainer.optimizers:
            self._adopt_all()
        for recorder in self._recorders.values():
            recorder.on_batch_start(is_first=batch_idx == 0)
        if self.fit.wanted.stops:
            self.fit.dump.see_batch_start(batch, batch_idx)
        if self._pass_ends and batch_idx == 0:
            self._pass_ends.on_epoch_start()
        if not self._batches:
            self._movement = Movement(self._trainable())

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
        recorder = self._recorders.get(optimizer)
        if recorder is None:
            return
        if uses_scaler(self.fit.trainer):
            recorder.announce()
        if self._moment == BEFORE_OPTIMIZER_STEP:
            recorder.take_before(loss_scale(self.fit.trainer, optimizer))

    @_harmless
    def on_batch_end(self, outputs: object) -> None:
        """Note the loss, and write what is due."""
        for recorder in self._recorders.values():
            recorder.on_batch_end(outputs)
        if self._pass_ends:
            missed = any(r.missed_before for r in self._recorders.values())
            self._pass_ends.on_batch_end(missed=missed)
        self._say_what_is_out_of_reach()
        self._batches += 1
        if self._batches == _PATIENCE * self.fit.trainer.accumulate_grad_batches:
            self._say_what_was_not_seen()

    @_harmless
    def on_epoch_end(self) -> None:
        """Measure the weights, if that was asked for."""
        for recorder in self._recorders.values():
            recorder.on_epoch_end()

    @_harmless
    def write(self) -> None:
        """Write everything measured so far, through to the files."""
        for recorder in self._recorders.values():
            recorder.write()
        if self.fit.loggers:
            self.fit.loggers.flush()

    def close(self) -> None:
        """Write what is left and leave no trace on optimizers and parameters."""
        self._leave()
        self.write()
        self._finish()

    def learned(self) -> list[State]:
        """Return what the policies have learned, by optimizer."""
        waiting = [learned for learned, _ in self._waiting]
        return [recorder.learned() for recorder in self._in_order()] + waiting

    def last_steps(self) -> list[int]:
        """Return the step recorded last, by optimizer."""
        waiting = [step for _, step in self._waiting]
        return [recorder.last_step for recorder in self._in_order()] + waiting

    def take_up(self, learned: Sequence[State], last_steps: Sequence[int]) -> None:
        """Go on from where an earlier fit, or a checkpoint of this one, was."""
        steps = [*last_steps, *[-1] * len(learned)]  # none were saved by 0.1.0
        self._waiting = list(zip(learned, steps, strict=False))
        for recorder in self._in_order():
            self._take_up_next(recorder)

    def _take_up_next(self, recorder: StepRecorder) -> None:
        """Have a recorder go on from what waits for the next one in order."""
        if self._waiting:
            learned, recorder.last_step = self._waiting.pop(0)
            recorder.take_up(learned)

    @_harmless
    def _leave(self) -> None:
        if self._pass_ends:
            self._pass_ends.close()
        while self._undo:
            self._undo.pop()()
        for recorder in self._recorders.values():
            recorder.close()

    @_harmless
    def _finish(self) -> None:
        if self.fit.loggers:
            self.fit.loggers.close()
        self._say_what_is_out_of_reach()
        if self._batches:
            self._say_what_was_not_seen()

    def _listen(self) -> None:
        """Install the hooks that Lightning has no callback method for."""
        trainer, module = self.fit.trainer, self.fit.module
        for caution in cautions(trainer, module, self.fit.wanted.policies):
            self.fit.say(caution)
        self._adopt_all()
        self._undo.append(at_any_step(self._meet))
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
            on_nonfinite=fit.wanted.on_nonfinite.action,
        )
        if fit.wanted.layer_statistics:
            fit.say(no_statistics())
        columns = Fragments(engine, fit.names())
        parts = Parts(columns, schema_of(columns, fit, label=""))
        recorder = StepRecorder(engine.optimizer, fit, lambda _: parts)
        self._recorders[engine.optimizer] = recorder

        def before(scale: Tensor) -> None:
            recorder.take_before(scale)
            recorder.announce()

        self._undo.append(
            at_engine_step(engine, before=before, after=recorder.on_scaled)
        )

    def _adopt_all(self) -> None:
        """Watch the optimizers the Trainer has now, and let go of those it had."""
        self._adopted = list(self.fit.trainer.optimizers)
        for optimizer in self._adopted:
            self._adopt_if_new(optimizer)
        for optimizer in list(self._recorders):
            if optimizer not in [*self._adopted, *self._others]:
                recorder = self._recorders.pop(optimizer)
                recorder.close()
                recorder.write()

    def _adopt_if_new(self, optimizer: Optimizer) -> None:
        try:
            if optimizer not in self._recorders and parameters_of(optimizer):
                self._adopt(optimizer)
        except Exception as error:  # as of one that cannot be hashed
            if not self.fit.wanted.observes:
                raise
            self.fit.trouble(error)

    def _adopt(self, optimizer: Optimizer) -> None:
        """Start to watch an optimizer, where another left off if it replaces that."""
        for other, recorder in list(self._recorders.items()):
            replaced = other not in self._adopted and other not in self._others
            if replaced and _same(parameters_of(optimizer), recorder.parameters):
                del self._recorders[other]
                self._passed.add(other)
                self._recorders[optimizer] = recorder
                recorder.hand_over(optimizer)
                return
        recorder = StepRecorder(optimizer, self.fit, self._parts)
        recorder.attach(optimizer)
        self._recorders[optimizer] = recorder

    def _meet(self, optimizer: Optimizer) -> None:
        """Watch an optimizer that steps and is none of the Trainer's, if it is of this fit."""
        try:
            if optimizer not in self._recorders and optimizer not in self._passed:
                self._get_to_know(optimizer)
        except Warning:
            raise
        except Exception as error:
            self.fit.trouble(error)

    def _get_to_know(self, optimizer: Optimizer) -> None:
        if self.fit.is_trial:
            return
        names = self.fit.names()
        held = parameters_of(optimizer)
        known = [names[parameter] for parameter in held if parameter in names]
        if not known:
            self._passed.add(optimizer)
            return
        if in_backward():  # gradients are not complete, here and in other optimizers
            self._pass_by(optimizer, known)
            return
        for recorder in self._recorders.values():
            inside = recorder.is_updating and {*held} <= {*recorder.parameters}
            if inside or _same(held, recorder.parameters):
                self._passed.add(optimizer)
                recorder.attach(optimizer)
                return
        if len(self._others) == _MOST_OTHERS:
            self._pass_by(optimizer, known)
            return
        self._others.append(optimizer)
        self._adopt(optimizer)
        self._take_up_next(self._recorders[optimizer])

    def _pass_by(self, optimizer: Optimizer, names: Sequence[str]) -> None:
        self._passed.add(optimizer)
        self._elsewhere.setdefault(type(optimizer).__name__, []).extend(names)

    def _parts(self, optimizer: Optimizer) -> Parts:
        clips = self._trainer_clips
        return parts_of(optimizer, self.fit, label=self._label(optimizer), clips=clips)

    def _label(self, optimizer: Optimizer) -> str:
        optimizers = self.fit.trainer.optimizers
        if optimizer in optimizers:
            place = optimizers.index(optimizer)
            return f"optimizer_{place}" if optimizers[1:] else ""
        place = self._others.index(optimizer)
        return f"{type(optimizer).__name__}_{place}" if place or optimizers else ""

    def _in_order(self) -> list[StepRecorder]:
        """Return the recorders in the order of the Trainer's optimizers, then the others."""
        order = [*self._adopted, *self._others] or list(self._recorders)
        recorders = self._by_identity()
        return [recorders[id(each)] for each in order if id(each) in recorders]

    def _say_what_is_out_of_reach(self) -> None:
        """Say it of all optimizers of a kind at once: some libraries have very many."""
        while self._elsewhere:
            kind, names = self._elsewhere.popitem()
            self.fit.say(updates_elsewhere(kind, names, self.fit.wanted))

    def _trainable(self) -> set[Tensor]:
        """Return what may be trained, whether an optimizer holds it or not."""
        held = {p for each in self._recorders.values() for p in each.parameters}
        return {p for p in held.union(self.fit.names()) if p.requires_grad}

    def _by_identity(self) -> dict[int, StepRecorder]:
        """Return the recorders by the `id` of their optimizers, for any can be asked for."""
        return {id(each): recorder for each, recorder in self._recorders.items()}

    def _say_what_was_not_seen(self) -> None:
        """Say what has changed in no update that was seen: optimizers, then parameters."""
        held = {optimizer: {*r.parameters} for optimizer, r in self._recorders.items()}
        seen = [held[each] for each, r in self._recorders.items() if not r.is_new]
        unexplained = self._trainable().difference(*seen)
        if not unexplained or self._movement is None:
            return
        unexplained &= self._movement.moved()
        for optimizer, parameters in held.items():
            if parameters & unexplained:
                self.fit.say(unseen(optimizer, self.fit.wanted))
        # A copy that is kept up to date, as a target network, has no gradients.
        listed = map(parameters_of, self._adopted)  # also one that cannot be watched
        unheld = unexplained.difference(*held.values(), *listed)
        free = {p for p in unheld if p.grad is not None}
        names = [name for p, name in self.fit.names().items() if p in free]
        if names:
            self.fit.say(unseen_parameters(names, self.fit.wanted))

    def _take_all_before_if_complete(self) -> None:
        if gradients_complete(self.fit.trainer, self.fit.module, self._batch_idx):
            self._take_all_before()

    @_harmless
    def _take_all_before(self) -> None:
        for optimizer, recorder in self._recorders.items():
            # Toggled off, it took no part in the pass, and may have been clipped since.
            if any(p.requires_grad for p in parameters_of(optimizer)):
                recorder.take_before(loss_scale(self.fit.trainer, optimizer))

    def _clip_for_trainer(
        self, optimizer: Any, clip_val: float, algorithm: str
    ) -> bool:
        """Clip in the Trainer's place, to the bit as it would; return whether done."""
        recorder = self._by_identity().get(id(self._unwrapped(optimizer)))
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
        recorder = self._recorders.get(optimizer)
        # With DDP's static graph, the first backward pass ends before gradients are
        # reduced; Lightning reduces them between its hook and this call.
        if recorder and not (recorder.saw_before and recorder.last_step >= 0):
            recorder.take_before(scale)

    def _unwrapped(self, optimizer: Any) -> Any:
        """Return the optimizer that `self.optimizers()` has wrapped."""
        if id(optimizer) in self._by_identity():
            return optimizer
        return getattr(optimizer, "optimizer", optimizer)


def _same(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Whether the same parameters are held, in whatever order."""
    return {*some} == {*others}
