"""What a tuner tries ahead of the fit, clipped and guarded as the fit will be."""

from typing import Any

from torch.optim import Optimizer

from gradguard.fit.context import context
from gradguard.fit.parts import parts_of
from gradguard.fit.recorder import StepRecorder
from gradguard.fit.wanted import Wanted
from gradguard.gradients.columns import parameters_of
from gradguard.hooks.update import at_any_step


class Rehearsal:
    """Clip and guard a tuner's trials ahead of the fit, and keep nothing of them.

    Args:
        trainer: A Trainer that is being set up.
        module: Its LightningModule.
        callback: The callback on whose behalf this is.
        wanted: What the fit is to do.
    """

    def __init__(
        self, trainer: Any, module: Any, callback: object, wanted: Wanted
    ) -> None:
        self._fit = context(trainer, module, callback, wanted, log=False)
        self._recorders: dict[Optimizer, StepRecorder] = {}
        self._undo = at_any_step(self._meet)

    def close(self) -> None:
        """Leave no trace."""
        self._undo()
        for recorder in self._recorders.values():
            recorder.close()
        self._recorders.clear()

    def _meet(self, optimizer: Optimizer) -> None:
        fit = self._fit
        if optimizer in self._recorders or optimizer not in fit.trainer.optimizers:
            return
        if not fit.is_trial or not parameters_of(optimizer):
            return
        recorder = StepRecorder(
            optimizer, fit, lambda held: parts_of(held, fit, label="", clips=None)
        )
        recorder.attach(optimizer)
        self._recorders[optimizer] = recorder
