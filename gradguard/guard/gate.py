"""Stop an update whose gradients are not finite, on all processes alike."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, distributed
from torch.optim import Optimizer

from gradguard.errors import NonFiniteGradientError
from gradguard.gradients.columns import ParameterColumns
from gradguard.guard.culprits import advice, culprits

Action = Literal["record", "skip", "raise"]


@dataclass(frozen=True)
class OnNonFinite:
    """What to do at a step whose gradients hold a NaN or an Inf.

    Args:
        action: "record" lets it pass; "skip" leaves parameters and optimizer as they
            are; "raise" ends the training.
        max_consecutive_skips: Skips in a row after which the next one raises; at least 1.
        dump_dir: Where to save what replays the first such step; None saves nothing.

    Raises:
        ValueError: If an argument is out of its range.
    """

    action: Action = "record"
    max_consecutive_skips: int = 10
    dump_dir: Path | None = None

    def __post_init__(self) -> None:
        if self.action not in get_args(Action):
            raise ValueError(
                f'on_nonfinite must be "record", "skip" or "raise", got {self.action!r}'
            )
        if self.max_consecutive_skips < 1:
            raise ValueError(
                "max_consecutive_skips must be at least 1, "
                f"got {self.max_consecutive_skips!r}"
            )
        if self.dump_dir is not None and self.action == "record":
            raise ValueError('dump_dir needs on_nonfinite="skip" or "raise"')


class Gate:
    """Decide before each update of one optimizer whether it may happen; syncs once.

    Args:
        optimizer: Whose update.
        columns: Its parameters.
        settings: What to do.
        dump: Called with the step, the loss and the columns at each bad step.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        columns: ParameterColumns,
        settings: OnNonFinite,
        dump: Callable[[int, float | None, ParameterColumns], str],
    ) -> None:
        self._optimizer = optimizer
        self._columns = columns
        self._settings = settings
        self._dump = dump
        self._in_a_row = 0

    def is_bad(self, *norms: Tensor) -> bool:
        """Whether norms are not finite, here or on another process.

        A scaler that is going to skip the update by itself is left to do so. To be
        called on every process, with nothing where there are no gradients.
        """
        device = self._columns.parameters[0].device
        bad = torch.zeros((), device=device)
        for row in norms:
            bad += (~row.isfinite()).any().to(device)
        found_inf: Tensor | None = getattr(self._optimizer, "found_inf", None)
        if found_inf is not None:
            bad *= (found_inf == 0).to(device).squeeze()
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(bad, distributed.ReduceOp.MAX)
        found = bool(bad)
        if not found:
            self._in_a_row = 0
        return found

    def stop(self, step: int, before: Tensor, now: Tensor, loss: Any) -> None:
        """Say what is bad, and take the gradients away from the optimizer.

        Args:
            step: Optimizer steps completed before.
            before: Norms before anybody clipped, `[P]`.
            now: Norms as they are, `[P]`.
            loss: What the closure returned.

        Raises:
            NonFiniteGradientError: If asked to, or after too many skips in a row.
        """
        self._in_a_row += 1
        most = self._settings.max_consecutive_skips
        value = loss.detach() if isinstance(loss, Tensor) else loss
        known = float(value) if isinstance(value, (Tensor, float)) else None
        where = self._dump(step, known, self._columns)
        raises = self._settings.action == "raise" or self._in_a_row > most
        if raises or self._in_a_row == 1:
            said = self._culprits(before, now)
            text = f"step {step}, {where}: {said}; {advice(known, said)}"
            if self._in_a_row > most:
                text += f" (max_consecutive_skips={most} steps were skipped before)"
            if raises:
                raise NonFiniteGradientError(text)
            warnings.warn(f"update skipped at {text}", stacklevel=2)
        for parameter in self._columns.parameters:
            parameter.grad = None  # zeros would still move AdamW

    def _culprits(self, before: Tensor, now: Tensor) -> str:
        columns = self._columns
        norms = torch.where(before.isfinite(), now, before).tolist()
        return culprits(
            columns.names,
            [columns.parameters[column] for column in columns.order],
            [norms[column] for column in columns.order],
        )
