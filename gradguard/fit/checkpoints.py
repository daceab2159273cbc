"""Ruined weights never take the place of good ones on disk.

What a callback such as `ModelCheckpoint` wants to save with ruined weights goes to the file
`checkpoint.ruined` beside, over the last one there, and the callback keeps the files and
scores it had: nothing is deleted for it. What `Trainer.save_checkpoint` is asked for by name
is written as asked where there is no such file yet, else to `checkpoint.ruined` too.

That name has no `.ckpt`: Lightning takes the newest `last*.ckpt` for the last checkpoint.
"""

import os
import warnings
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import Tensor

from gradguard.fit.context import FitContext
from gradguard.guard.ruin import ruined
from gradguard.hooks.saves import Write, at_saves
from gradguard.names import named
from gradguard.tensorboard import places

_RUINED = "checkpoint.ruined"


def keep_good_checkpoints(fit: FitContext) -> None:
    """Look at the weights whenever they are saved, until the fit is torn down."""
    checkpoints = _Checkpoints(fit)
    at_saves(fit.trainer, checkpoints.save, checkpoints.close)


class _Checkpoints:
    """What becomes of the checkpoints of a fit.

    Args:
        fit: The fit, about to train.
    """

    def __init__(self, fit: FitContext) -> None:
        self._fit = fit
        self._buffers = dict(fit.module.named_buffers()).keys()
        # Some keep a mask of -Inf among the parameters, and nothing has ruined it.
        self._given: Collection[str] = ()
        state = [*fit.module.named_parameters(), *fit.module.named_buffers()]
        self._given = self._ruined(state).keys()
        resumed = fit.trainer.ckpt_path
        self._good = [str(resumed)] if resumed else []
        self._in_a_row = 0
        self._kept_back = 0

    def save(
        self,
        checkpoint: Mapping[str, Any],
        path: str,
        write: Write,
        *,
        by_callback: bool,
    ) -> bool:
        """Write a checkpoint where it does no harm; return whether that is at its path."""
        holding = self._ruined(checkpoint.get("state_dict", {}).items())
        if not self._on_any_rank(found=bool(holding)):
            write(path)
            self._good.append(path)
            self._in_a_row = 0
            return True
        seen = self._in_words(holding)
        if not by_callback and not self._is_there(path):
            write(path)
            self._warn(f"{seen}, and so they were saved in {path}, as asked")
            return True
        self._kept_back += 1
        where = _written_beside(path, write)
        self._warn(f"{seen}, so they were not saved as {path}, but {where}")
        return False

    def close(self) -> None:
        """Say how many checkpoints were kept back, if that is more than was said."""
        if self._kept_back > 1:
            warnings.warn(
                f"GradGuard kept back {self._kept_back} checkpoints with ruined weights "
                "in this fit",
                stacklevel=2,
            )

    def _ruined(self, state: Iterable[tuple[str, Tensor]]) -> dict[str, str]:
        """Return what each tensor holds that was not so from the start, by name."""
        try:
            found = ruined(state, buffers=self._buffers)
        except Exception as error:  # of tensors unknown to us: no save fails for that
            self._fit.trouble(error)
            return {}
        return {name: kinds for name, kinds in found.items() if name not in self._given}

    def _in_words(self, holding: Mapping[str, str]) -> str:
        if not holding:
            return "weights are not finite on another process"
        culprits = named([f"{name} ({kinds})" for name, kinds in holding.items()])
        if holding.keys() <= self._buffers:
            return (
                f"weights are finite, but buffers are not: {culprits}, which a forward "
                "pass leaves even where its update is skipped (resetting them mends that)"
            )
        return f"weights are not finite: {culprits}"

    def _warn(self, text: str) -> None:
        """Say it at the first such checkpoint of a row, and which one to go back to."""
        self._in_a_row += 1
        if self._in_a_row == 1:
            step = self._fit.completed
            warnings.warn(f"step {step}: {text}; {self._way_back()}", stacklevel=2)

    def _way_back(self) -> str:
        for path in reversed(self._good):
            if places.exists(path):
                return f'to go back to good ones: trainer.fit(..., ckpt_path="{path}")'
        return "no good ones were saved in this fit"

    def _is_there(self, path: str) -> bool:
        here = self._fit.trainer.is_global_zero and places.exists(path)
        return self._on_any_rank(found=here)

    def _on_any_rank(self, *, found: bool) -> bool:
        strategy = self._fit.trainer.strategy
        return bool(strategy.reduce_boolean_decision(found, all=False))


def _written_beside(path: str, write: Write) -> str:
    """Write to `checkpoint.ruined` in the directory of a path; return where, in words."""
    beside = places.below(os.path.dirname(path), _RUINED)  # noqa: PTH120 (of a URL too)
    try:
        write(beside)
    except Exception as error:  # of the disk: what is good stays, and training goes on
        return f"nowhere ({type(error).__name__}: {error})"
    return f"in {beside}"
