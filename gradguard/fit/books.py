"""One fit's recorders, one for each optimizer, and which optimizer's steps go to which.

The Trainer's optimizers, those put in their place in mid-fit, those inside of them, and those
that the Trainer does not know.
"""

from collections.abc import Iterator, Sequence
from weakref import WeakKeyDictionary, WeakSet

from torch import Tensor
from torch.optim import Optimizer

from gradguard.clipping.policy import State
from gradguard.fit.cautions import unseen, updates_elsewhere
from gradguard.fit.context import FitContext
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
        self._recorders: dict[Optimizer, StepRecorder] = {}
        self._trainers: list[Optimizer] = []
        self._others: list[Optimizer] = []
        # Without a recorder of their own: inside of others, or none of this fit's.
        self._passed: WeakSet[Optimizer] = WeakSet()
        self._versions: WeakKeyDictionary[Optimizer, int] = WeakKeyDictionary()

    def __contains__(self, optimizer: object) -> bool:
        """Whether an optimizer has a recorder."""
        return optimizer in self._recorders

    def __iter__(self) -> Iterator[StepRecorder]:
        """Iterate over the recorders, those of the Trainer's optimizers first."""
        order = [*self._trainers, *self._others] or list(self._recorders)
        return iter([self._recorders[o] for o in order if o in self._recorders])

    def get(self, optimizer: Optimizer) -> StepRecorder | None:
        """Return the recorder of an optimizer, None if there is none."""
        return self._recorders.get(optimizer)

    def add(self, optimizer: Optimizer, recorder: StepRecorder) -> None:
        """Keep a recorder that was made elsewhere."""
        self._recorders[optimizer] = recorder

    def keep_up(self) -> None:
        """Record the optimizers the Trainer has now, and let go of those it had."""
        if self._trainers == self._fit.trainer.optimizers:
            return
        self._trainers = list(self._fit.trainer.optimizers)
        for optimizer in self._trainers:
            if optimizer not in self._recorders and parameters_of(optimizer):
                self._open(optimizer)
        for optimizer in list(self._recorders):
            if optimizer not in [*self._trainers, *self._others]:
                recorder = self._recorders.pop(optimizer)
                recorder.close()
                recorder.write()

    def meet(self, optimizer: Optimizer) -> None:
        """Record an optimizer that steps and is none of the Trainer's, if it is of this fit."""
        if optimizer in self._recorders or optimizer in self._passed:
            return
        try:
            self._get_to_know(optimizer)
        except Exception as error:  # whatever the optimizers of others raise
            self._fit.trouble(error)

    def state_dict(self) -> list[State]:
        """Return what the policies have learned, by optimizer."""
        return [recorder.learned() for recorder in self]

    def last_steps(self) -> list[int]:
        """Return the step recorded last, by optimizer."""
        return [recorder.last_step for recorder in self]

    def load_state_dict(
        self, learned: Sequence[State], last_steps: Sequence[int]
    ) -> None:
        """Go on from where an earlier fit, or a checkpoint of this one, was."""
        for recorder, state in zip(self, learned, strict=False):
            recorder.take_up(state)
        for recorder, step in zip(self, last_steps, strict=False):
            recorder.last_step = step

    def say_what_was_not_seen(self) -> None:
        """Say which optimizers have changed their parameters in no update that was seen."""
        for optimizer, recorder in self._recorders.items():
            changed = _versions(optimizer) != self._versions.get(optimizer)
            if recorder.is_new and changed:
                self._fit.say(unseen(optimizer, self._fit.wanted))

    def _open(self, optimizer: Optimizer) -> None:
        """Start to record an optimizer, where another left off if it replaces that."""
        self._versions[optimizer] = _versions(optimizer)
        for other, recorder in list(self._recorders.items()):
            replaced = other not in [*self._trainers, *self._others]
            if replaced and _same(parameters_of(optimizer), recorder.parameters):
                self._replace(other, optimizer)
                return
        recorder = StepRecorder(optimizer, self._fit, self._parts)
        recorder.attach(optimizer)
        self._recorders[optimizer] = recorder

    def _replace(self, old: Optimizer, new: Optimizer) -> None:
        self._passed.add(old)
        recorder = self._recorders[new] = self._recorders.pop(old)
        recorder.hand_over(new)

    def _get_to_know(self, optimizer: Optimizer) -> None:
        names = self._fit.names()
        held = parameters_of(optimizer)
        known = [names[parameter] for parameter in held if parameter in names]
        if self._fit.is_trial:
            return
        if not known:
            self._passed.add(optimizer)
        elif in_backward():  # gradients are not complete, here and in other optimizers
            self._pass_by(optimizer, known)
        elif not self._is_another_of(optimizer, held):
            self._add_other(optimizer, known)

    def _is_another_of(self, optimizer: Optimizer, held: Sequence[Tensor]) -> bool:
        """Record an optimizer with one that is there, if it updates the same parameters."""
        for other, recorder in list(self._recorders.items()):
            inside = recorder.is_updating and {*held} <= {*recorder.parameters}
            same = _same(held, recorder.parameters)
            if not (inside or same):
                continue
            if other in self._others and not inside:  # made anew by whoever made that
                self._others[self._others.index(other)] = optimizer
                self._replace(other, optimizer)
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
        self._open(optimizer)

    def _pass_by(self, optimizer: Optimizer, names: Sequence[str]) -> None:
        self._passed.add(optimizer)
        self._fit.say(updates_elsewhere(optimizer, names, self._fit.wanted))

    def _parts(self, optimizer: Optimizer) -> Parts:
        label = self._label(optimizer)
        return parts_of(optimizer, self._fit, label=label, clips=self._clips)

    def _label(self, optimizer: Optimizer) -> str:
        optimizers = self._fit.trainer.optimizers
        if optimizer in optimizers:
            place = optimizers.index(optimizer)
            return f"optimizer_{place}" if optimizers[1:] else ""
        place = self._others.index(optimizer)
        return f"{type(optimizer).__name__}_{place}" if place or optimizers else ""


def _same(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Whether the same parameters are held, in whatever order."""
    return {*some} == {*others}


def _versions(optimizer: Optimizer) -> int:
    """Return a number that grows whenever a parameter is changed in place."""
    return sum(parameter._version for parameter in parameters_of(optimizer))
