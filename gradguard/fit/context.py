"""What everything that watches one fit shares: the Trainer, the settings, the loggers."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from gradguard.fit.loggers import Loggers
from gradguard.fit.origin import Origin
from gradguard.fit.wanted import Wanted
from gradguard.guard.dump import Dump
from gradguard.names import unwrapped


@dataclass
class FitContext:
    """One fit.

    Attributes:
        trainer: A Trainer of either namespace of Lightning.
        module: Its LightningModule.
        callback: The GradGuard, which is missing from the Trainer's callbacks in a trial.
        wanted: What is to be done.
        loggers: Where the records go; None in a trial ahead of the fit.
        dump: Saves the first bad step.
    """

    trainer: Any
    module: Any
    callback: object
    wanted: Wanted
    loggers: Loggers | None
    dump: Dump
    _said: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._callbacks = self.trainer.callbacks

    @property
    def is_trial(self) -> bool:
        """Whether a tuner is trying something out: it takes the callbacks away for that."""
        callbacks = self.trainer.callbacks
        return callbacks is not self._callbacks and self.callback not in callbacks

    @property
    def completed(self) -> int:
        """Updates completed, as the Trainer counts them."""
        return int(self.trainer.global_step)

    def names(self) -> Mapping[Tensor, str]:
        """Return the model's parameters by name as they are now, in model order."""
        return {
            parameter: unwrapped(name)
            for name, parameter in self.module.named_parameters()
        }

    def say(self, sentence: str) -> None:
        """Warn once per fit."""
        if sentence not in self._said:
            self._said.add(sentence)
            warnings.warn(sentence, stacklevel=2)

    def trouble(self, error: Exception) -> None:
        """Say once of each kind of error that it cost records, and no more than that."""
        self.say(
            f"GradGuard lost records to an error of its own ({type(error).__name__}: "
            f"{error}); training goes on as without it"
        )


def context(
    trainer: Any, module: Any, callback: object, wanted: Wanted, *, log: bool
) -> FitContext:
    """Return the context of a fit; `log` opens the Trainer's loggers."""
    dump = Dump(
        wanted.dump_dir, module, Origin(trainer, module), wanted.guard.stopped_kinds
    )
    loggers = None
    if log:
        loggers = Loggers(
            trainer,
            every_n_steps=wanted.every_n_steps,
            max_scalars=wanted.max_scalars,
            verdict=wanted.verdict,
        )
    return FitContext(trainer, module, callback, wanted, loggers, dump)
