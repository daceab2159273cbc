"""Stop an update that is not finite, or an outlier, on all processes alike."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradguard.errors import NonFiniteGradientError, SpikeError
from gradguard.gradients.columns import ParameterColumns
from gradguard.guard.action import Action, check_action
from gradguard.guard.culprits import advice, carriers, culprits
from gradguard.guard.seen import seen_on_host
from gradguard.guard.spike import RECORDED, Spike
from gradguard.guard.usual import Outlier, SpikeWatch, shifted

NON_FINITE: Literal["non-finite"] = "non-finite"

Bad = Outlier | Literal["non-finite"]
"""Why an update is not to be."""

SPIKE = "spike"
"""What the other bad steps are called; and where a gate keeps its state."""


@dataclass(frozen=True)
class Guard:
    """What to do about bad steps.

    Args:
        on_nonfinite: At a NaN or an Inf in a gradient: "record" lets the update pass,
            "skip" leaves parameters and optimizer as they are, "raise" ends the training.
        on_spike: The same at a norm or a loss far above the recent ones.
        max_consecutive_skips: Non-finite steps in a row after which the next one raises,
            outliers in a row after which the next one counts as usual; at least 1.
        dump_dir: Where to save what replays the first step of each kind; None saves
            nothing.

    Raises:
        ValueError: If an argument is out of its range.
    """

    on_nonfinite: Action = "record"
    on_spike: Spike = RECORDED
    max_consecutive_skips: int = 10
    dump_dir: Path | None = None

    def __post_init__(self) -> None:
        check_action("on_nonfinite", self.on_nonfinite)
        if self.max_consecutive_skips < 1:
            raise ValueError(
                "max_consecutive_skips must be at least 1, "
                f"got {self.max_consecutive_skips!r}"
            )
        if self.dump_dir is not None and not self.stops:
            raise ValueError(
                'dump_dir needs on_nonfinite or on_spike to be "skip" or "raise"'
            )

    @property
    def stopped_kinds(self) -> frozenset[str]:
        """What kinds of updates are kept from the weights."""
        actions = {NON_FINITE: self.on_nonfinite, SPIKE: self.on_spike.action}
        return frozenset(kind for kind, action in actions.items() if action != "record")

    @cached_property
    def stops(self) -> bool:
        """Whether some updates are kept from the weights."""
        return bool(self.stopped_kinds)


class Gate:
    """Decide before each update of one optimizer whether it may happen; syncs once.

    Args:
        optimizer: Whose update.
        columns: Its parameters.
        settings: What to do.
        dump: Called with kind, step, loss and columns at each bad step.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        columns: ParameterColumns,
        settings: Guard,
        dump: Callable[[str, int, float | None, ParameterColumns], str],
    ) -> None:
        self._optimizer = optimizer
        self._columns = columns
        self._settings = settings
        self._dump = dump
        self._nonfinite_in_a_row = 0
        self._spikes: SpikeWatch | None = None
        if settings.on_spike.action != "record":
            most = settings.max_consecutive_skips
            self._spikes = SpikeWatch(settings.on_spike, most)

    def look(
        self,
        step: int,
        loss: Tensor | float | None,
        *norms: Tensor,
        watches_spikes: bool = True,
    ) -> Bad | None:
        """Return why an update is not to be, here or on another process; None if it may be.

        A scaler that is going to skip the update by itself is left to do so. To be
        called on every process, with no norms where there are no gradients.

        Args:
            step: Optimizer steps completed before.
            loss: Of this process; the largest of all processes counts.
            norms: Norms before anybody clipped, and as they are now, `[P]` each.
            watches_spikes: Whether the step is one to compare with others.
        """
        device = self._columns.parameters[0].device
        watched = loss if self._spikes else None
        before, now, largest = seen_on_host(self._optimizer, watched, norms, device)
        if not (math.isfinite(before) and math.isfinite(now)):
            return NON_FINITE if self._settings.on_nonfinite != "record" else None
        self._nonfinite_in_a_row = 0
        if self._spikes is None or not watches_spikes:
            return None
        norm = max(before, now)  # the second, where somebody has made it larger
        outlier = self._spikes.look(norm, largest)
        if outlier and self._spikes.has_shifted:
            warnings.warn(shifted(step, outlier, self._spikes.in_a_row), stacklevel=2)
            self._spikes.accept(norm, largest)
            return None
        return outlier

    def stop(
        self,
        step: int,
        bad: Bad,
        before: Tensor,
        now: Tensor,
        loss: Tensor | float | None,
    ) -> None:
        """Say what is bad, and take the gradients away from the optimizer.

        Args:
            step: Optimizer steps completed before.
            bad: What `look` returned.
            before: Norms before anybody clipped, `[P]`.
            now: Norms as they are, `[P]`.
            loss: What the closure returned.

        Raises:
            NonFiniteGradientError: If asked to, or after too many skips in a row.
            SpikeError: If asked to.
        """
        known = None if loss is None else float(loss)
        kind = SPIKE if isinstance(bad, Outlier) else NON_FINITE
        where = f"step {step}, {self._dump(kind, step, known, self._columns)}"
        if isinstance(bad, Outlier):
            self._say_outlier(where, bad, before)
        else:
            self._say_nonfinite(
                where, torch.where(before.isfinite(), now, before), known
            )
        for parameter in self._columns.parameters:
            parameter.grad = None  # zeros would still move AdamW

    def state_dict(self) -> dict[str, Any]:
        """Return what is usual of the steps so far, in a form to save."""
        return {SPIKE: self._spikes.state_dict()} if self._spikes else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what was usual for another gate."""
        if self._spikes and SPIKE in state:
            self._spikes.load_state_dict(state[SPIKE])

    def _say_nonfinite(self, where: str, norms: Tensor, loss: float | None) -> None:
        self._nonfinite_in_a_row += 1
        most = self._settings.max_consecutive_skips
        too_many = self._nonfinite_in_a_row > most
        raises = self._settings.on_nonfinite == "raise" or too_many
        if not raises and self._nonfinite_in_a_row > 1:
            return
        said = culprits(*self._in_model_order(norms))
        text = f"{where}: {said}; {advice(loss, said)}"
        if too_many:
            text += f" (max_consecutive_skips={most} steps were skipped before)"
        if raises:
            raise NonFiniteGradientError(text)
        warnings.warn(f"update skipped at {text}", stacklevel=3)

    def _say_outlier(self, where: str, outlier: Outlier, before: Tensor) -> None:
        assert self._spikes is not None  # nobody else finds one
        raises = self._settings.on_spike.action == "raise"
        if not raises and self._spikes.in_a_row > 1:
            return
        names, _, norms = self._in_model_order(before)
        text = f"{where}: {outlier}; {carriers(names, norms)}; look at this batch"
        if raises:
            raise SpikeError(text)
        warnings.warn(f"update skipped at {text}", stacklevel=3)

    def _in_model_order(
        self, norms: Tensor
    ) -> tuple[Sequence[str], list[Tensor], list[float]]:
        columns, values = self._columns, norms.tolist()
        parameters = [columns.parameters[column] for column in columns.order]
        return columns.names, parameters, [values[column] for column in columns.order]
