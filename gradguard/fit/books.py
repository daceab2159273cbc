"""One fit's recorders, one for each optimizer, and which optimizer's steps go to which.

The Trainer's optimizers, those put in their place in mid-fit, those inside of them, and those
that the Trainer does not know.
"""

from collections.abc import Iterator, Sequence
from weakref import WeakSet

from torch import Tensor
from torch.optim import Optimizer

from gradguard.clipping.policy import State
from gradguard.fit.cautions import unseen, unseen_parameters, updates_elsewhere
from gradguard.fit.context import FitContext
from gradguard.fit.movement import Movement
from gradguard.fit.parts import Parts, parts_of
from gradguard.fit.recorder import StepRecorder
from gradguard.gradients.columns import parameters_of
from gradguard.hooks.backward import in_backward
from gradguard.hooks.takeover import TrainerClips

# Optimizers beside the Trainer's that are watched; some libraries have one a parameter.
_MOST_OTHERS = 8


class Books:
    """Keep a recorder for each optimizer that updates parameters of the fit's model.

    Args:
        fit: The fit.
        clips: Makes what does the Trainer's clip; None where the Trainer does.
    """

    def __init__(self, fit: FitContext, clips: TrainerClips | None) -> None:
        self._fit = fit
        self._clips = clips
        # By `id`: an optimizer of others may not be hashable. A recorder keeps it alive.
        self._recorders: dict[int, StepRecorder] = {}
        self._in_order: list[StepRecorder] | None = None
        self._trainers: list[Optimizer] = []
        self._others: list[Optimizer] = []
        # Without a recorder of their own: inside of others, or none of this fit's.
        self._passed: WeakSet[Optimizer] = WeakSet()
        # Names of what optimizers of a kind update, out of reach, since it was said last.
        self._elsewhere: dict[str, list[str]] = {}
        # Of optimizers that were recorded elsewhere, and have not stepped here yet.
        self._waiting: list[tuple[State, int]] = []
        self._movement: Movement | None = None

    def __iter__(self) -> Iterator[StepRecorder]:
        """Iterate over the recorders, those of the Trainer's optimizers first."""
        if self._in_order is None:  # asked for several times a step
            order = map(id, [*self._trainers, *self._others])
            found = [self._recorders[each] for each in order if each in self._recorders]
            self._in_order = found or list(self._recorders.values())
        return iter(self._in_order)

    def get(self, optimizer: object) -> StepRecorder | None:
        """Return the recorder of an optimizer, None if there is none."""
        return self._recorders.get(id(optimizer))

    def add(self, recorder: StepRecorder) -> None:
        """Keep a recorder that was made elsewhere."""
        self._recorders[id(recorder.optimizer)] = recorder
        self._in_order = None

    def keep_up(self) -> None:
        """Record the optimizers the Trainer has now, and let go of those it had."""
        if self._trainers == self._fit.trainer.optimizers:
            return
        self._trainers = list(self._fit.trainer.optimizers)
        for optimizer in self._trainers:
            self._open_if_new(optimizer)
        current = {*map(id, self._trainers), *map(id, self._others)}
        for gone in self._recorders.keys() - current:
            recorder = self._recorders.pop(gone)
            recorder.close()
            recorder.write()
        self._in_order = None

    def meet(self, optimizer: Optimizer) -> None:
        """Record an optimizer that steps and is none of the Trainer's, if it is of this fit."""
        try:
            if self.get(optimizer) or optimizer in self._passed:
                return
            if any(each is optimizer for each in self._trainers):
                self._passed.add(
                    optimizer
                )  # one try, with the parameters it has by now
                self._open_if_new(optimizer)
            else:
                self._get_to_know(optimizer)
        except Warning:  # somebody wants them to be errors
            raise
        except Exception as error:  # whatever the optimizers of others raise
            self._fit.trouble(error)

    def state_dict(self) -> list[State]:
        """Return what the policies have learned, by optimizer."""
        waiting = [learned for learned, _ in self._waiting]
        return [recorder.learned() for recorder in self] + waiting

    def last_steps(self) -> list[int]:
        """Return the step recorded last, by optimizer."""
        waiting = [step for _, step in self._waiting]
        return [recorder.last_step for recorder in self] + waiting

    def updates(self) -> int:
        """Return how many updates were seen, by all optimizers together."""
        return sum(recorder.updates for recorder in self)

    def load_state_dict(
        self, learned: Sequence[State], last_steps: Sequence[int]
    ) -> None:
        """Go on from where an earlier fit, or a checkpoint of this one, was."""
        steps = [*last_steps, *[-1] * len(learned)]  # none were saved by 0.1.0
        self._waiting = list(zip(learned, steps, strict=False))
        for recorder in self:
            self._take_up_next(recorder)

    def look_at_parameters(self) -> None:
        """Remember what is trainable as it is now, to tell later what has changed."""
        self._movement = Movement(self._trainable())

    def say_what_was_not_seen(self) -> None:
        """Say what has changed in no update that was seen: optimizers, then parameters."""
        seen = [recorder.parameters for recorder in self if not recorder.is_new]
        unexplained = self._trainable().difference(*seen)
        if not unexplained or self._movement is None:
            return
        unexplained &= self._movement.moved()
        for recorder in self:
            if unexplained.intersection(recorder.parameters):
                self._fit.say(unseen(recorder.optimizer, self._fit.wanted))
        held = [recorder.parameters for recorder in self]
        listed = map(parameters_of, self._trainers)  # also one that cannot be recorded
        # A copy that is kept up to date, as a target network, has no gradients.
        free = {p for p in unexplained.difference(*held, *listed) if p.grad is not None}
        names = [name for p, name in self._fit.names().items() if p in free]
        if names:
            self._fit.say(unseen_parameters(names, self._fit.wanted))

    def say_what_is_out_of_reach(self) -> None:
        """Say it of all optimizers of a kind at once: some libraries have very many."""
        while self._elsewhere:
            kind, names = self._elsewhere.popitem()
            self._fit.say(updates_elsewhere(kind, names, self._fit.wanted))

    def _open_if_new(self, optimizer: Optimizer) -> None:
        try:
            if self.get(optimizer) is None and parameters_of(optimizer):
                self._open(optimizer)
        except Warning:
            raise
        except Exception as error:
            if not self._fit.wanted.observes:
                raise
            self._fit.trouble(error)

    def _open(self, optimizer: Optimizer) -> None:
        """Start to record an optimizer, where another left off if it replaces that."""
        current = {*map(id, self._trainers), *map(id, self._others)}
        for other, recorder in list(self._recorders.items()):
            replaced = other not in current
            if replaced and _same(parameters_of(optimizer), recorder.parameters):
                self._replace(recorder, optimizer)
                return
        recorder = StepRecorder(optimizer, self._fit, self._parts)
        recorder.attach(optimizer)
        self.add(recorder)

    def _replace(self, recorder: StepRecorder, new: Optimizer) -> None:
        old = recorder.optimizer
        self._passed.add(old)
        del self._recorders[id(old)]
        self._in_order = None
        recorder.hand_over(new)
        self.add(recorder)

    def _take_up_next(self, recorder: StepRecorder) -> None:
        """Have a recorder go on from what waits for the next one in order."""
        if self._waiting:
            learned, recorder.last_step = self._waiting.pop(0)
            recorder.take_up(learned)

    def _get_to_know(self, optimizer: Optimizer) -> None:
        if self._fit.is_trial:
            return
        names = self._fit.names()
        held = parameters_of(optimizer)
        known = [names[parameter] for parameter in held if parameter in names]
        if not known:
            self._passed.add(optimizer)
        elif in_backward():  # gradients are not complete, here and in other optimizers
            self._pass_by(optimizer, known)
        elif not self._is_another_of(optimizer, held):
            self._add_other(optimizer, known)

    def _is_another_of(self, optimizer: Optimizer, held: Sequence[Tensor]) -> bool:
        """Record an optimizer with one that is there, if it updates the same parameters."""
        for recorder in list(self._recorders.values()):
            inside = recorder.is_updating and {*held} <= {*recorder.parameters}
            if not (inside or _same(held, recorder.parameters)):
                continue
            places = [id(each) for each in self._others]
            if id(recorder.optimizer) in places and not inside:
                # Made anew by whoever made that.
                self._others[places.index(id(recorder.optimizer))] = optimizer
                self._replace(recorder, optimizer)
            else:
                self._passed.add(optimizer)
                recorder.attach(optimizer)
            return True
        return False

    def _add_other(self, optimizer: Optimizer, names: Sequence[str]) -> None:
        if len(self._others) == _MOST_OTHERS:
            self._pass_by(optimizer, names)
            return
        self._others.append(optimizer)
        self._in_order = None
        self._open(optimizer)
        self._take_up_next(self._recorders[id(optimizer)])

    def _pass_by(self, optimizer: Optimizer, names: Sequence[str]) -> None:
        self._passed.add(optimizer)
        self._elsewhere.setdefault(type(optimizer).__name__, []).extend(names)

    def _trainable(self) -> set[Tensor]:
        """Return what may be trained, whether an optimizer holds it or not."""
        held = {parameter for recorder in self for parameter in recorder.parameters}
        return {p for p in held.union(self._fit.names()) if p.requires_grad}

    def _parts(self, optimizer: Optimizer) -> Parts:
        label = self._label(optimizer)
        return parts_of(optimizer, self._fit, label=label, clips=self._clips)

    def _label(self, optimizer: Optimizer) -> str:
        trainers = [id(each) for each in self._fit.trainer.optimizers]
        if id(optimizer) in trainers:
            place = trainers.index(id(optimizer))
            return f"optimizer_{place}" if trainers[1:] else ""
        place = [id(each) for each in self._others].index(id(optimizer))
        return f"{type(optimizer).__name__}_{place}" if place or trainers else ""


def _same(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Whether the same parameters are held, in whatever order."""
    return {*some} == {*others}
