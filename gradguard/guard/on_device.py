"""Skip a bad update without waiting for it: decided on the device, told to the optimizer.

Fused optimizers of torch take `found_inf`, a number on the device, and leave everything as
it is where that is 1. Nothing here crosses to the host before the records do.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer

from gradguard.errors import NonFiniteGradientError
from gradguard.gradients.columns import ParameterColumns
from gradguard.gradients.norms import Gradients
from gradguard.guard.culprits import carriers
from gradguard.guard.gate import SPIKE, Guard
from gradguard.guard.seen import seen
from gradguard.names import named
from gradguard.records.outliers import FACTOR
from gradguard.records.records import Records


def is_told_on_device(optimizer: Optimizer) -> bool:
    """Whether an optimizer takes from the device that an update is not to be.

    Not SGD with momentum, whose buffers torch leaves unset where it skips the first step.
    """
    return type(optimizer) in (Adam, AdamW, Adagrad, SGD) and all(
        group.get("fused") and not group.get("momentum")
        for group in optimizer.param_groups
    )


class DeviceWindow:
    """The logarithms of the last usual values of one quantity, as `Usual` keeps them.

    Args:
        size: How many.
        device: Where.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        # Devices without float64 have enough in float32 for logarithms.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self._logs = torch.zeros(size, dtype=dtype, device=device)
        self._places = torch.arange(size, device=device)
        self._count = torch.zeros((), dtype=torch.long, device=device)

    def limit(self, sigma: float) -> Tensor:
        """Return the logarithm of the limit, 0-d; Inf where too little is known."""
        size = len(self._logs)
        known = self._places < self._count
        count = self._count.clamp(1, size)
        mean = torch.where(known, self._logs, 0).sum() / count
        variance = torch.where(known, self._logs - mean, 0).square().sum() / count
        limit = mean + sigma * variance.sqrt() + math.log(FACTOR)
        return torch.where(2 * self._count < size, math.inf, limit)

    def clear_where(self, shifted: Tensor) -> None:
        """Forget all where a flag says so."""
        self._count = torch.where(shifted, 0, self._count)

    def add_where(self, usual: Tensor, log: Tensor) -> None:
        """Take a value for usual where a flag says so, in the place of the oldest."""
        here = self._places == self._count % len(self._logs)
        self._logs = torch.where(here & usual, log, self._logs)
        self._count = self._count + usual

    def state(self) -> Tensor:
        """Return the logarithms, the oldest first; syncs."""
        count, size = int(self._count), len(self._logs)
        known = self._logs[: min(count, size)].cpu().double()
        return known.roll(-count) if count > size else known

    def load(self, state: Tensor) -> None:
        """Go on from another window, from the last of its values if it was larger."""
        logs = state[-len(self._logs) :].to(self._logs)
        self._logs[: len(logs)] = logs
        self._count.fill_(len(logs))


class DeviceGate:
    """Decide before each update of a fused optimizer whether it may happen; never syncs.

    What was skipped is told when the records are on the host, and what is to end the
    training does so at the update after that.

    Args:
        optimizer: Whose update; one that `is_told_on_device`.
        columns: Its parameters, whole on this process.
        settings: What to do, without "raise" and without a dump.
    """

    def __init__(
        self, optimizer: Optimizer, columns: ParameterColumns, settings: Guard
    ) -> None:
        self._optimizer: Any = optimizer
        self._columns = columns
        self._settings = settings
        self._device = device = columns.parameters[0].device
        spike = settings.on_spike
        watch = spike.watch if spike.action == "skip" else ()
        self._windows = {each: DeviceWindow(spike.window, device) for each in watch}
        self._in_a_row = torch.zeros((), device=device)
        self._shifts = torch.zeros((), device=device)
        self._given: Tensor | None = None
        self._scalers: Tensor | None = None  # what a gradient scaler had given before
        self._told_shifts = 0
        self._streak = 0
        self._nonfinite_streak = 0
        self._ending: NonFiniteGradientError | None = None
        self._handle = optimizer.register_step_post_hook(self._take_back)

    def decide(
        self,
        loss: Tensor | float | None,
        gradients: Gradients | None,
        *norms: Tensor,
        watches_spikes: bool = True,
    ) -> Tensor:
        """Tell the optimizer whether to skip the update; return whether it is to, 0-d.

        To be called on every process, with nothing where there are no gradients.

        Args:
            loss: Of this process; the largest of all processes counts.
            gradients: As they are now.
            norms: Norms before anybody clipped, and as they are now, `[P]` each.
            watches_spikes: Whether the step is one to compare with others.

        Raises:
            NonFiniteGradientError: If too many steps in a row were skipped before.
        """
        if self._ending:
            raise self._ending
        self._take_back()  # of a step that has raised
        rows = self._looked_at(gradients, norms)
        before, now, largest = seen(self._optimizer, loss, rows, self._device)
        norm = torch.maximum(before, now)  # the second, where somebody made it larger
        finite = before.isfinite() & now.isfinite()
        refused: Tensor = ~finite & (self._settings.on_nonfinite == "skip")
        if watches_spikes and self._windows:
            logs = {"norm": norm.log(), "loss": largest.log()}
            refused = refused | self._is_outlier(logs, finite)
        found: Tensor | None = getattr(self._optimizer, "found_inf", None)
        flag = refused.float()
        self._given = flag if found is None else torch.maximum(flag, found)
        self._scalers = found
        self._optimizer.found_inf = self._given
        return refused

    def tell(self, records: Records) -> None:
        """Warn of what was skipped among steps that have arrived on the host."""
        for row in range(len(records.steps)):
            if records.refused[row]:
                self._tell_of(records, row)
            elif not records.skipped[row]:
                self._streak = self._nonfinite_streak = 0
        if self._windows and (shifts := int(self._shifts)) > self._told_shifts:
            self._told_shifts = shifts
            warnings.warn(
                f"{self._settings.max_consecutive_skips} steps in a row were far above "
                "the recent ones, so the level they have counts as usual from now on; if "
                "this is a training that diverges, lower the learning rate or clip",
                stacklevel=2,
            )

    def close(self) -> None:
        """Leave no trace on the optimizer."""
        self._handle.remove()
        self._take_back()

    def state_dict(self) -> dict[str, Any]:
        """Return what is usual of the steps so far, as `Gate` does; syncs."""
        if not self._windows:
            return {}
        windows = {str(name): window.state() for name, window in self._windows.items()}
        return {SPIKE: {**windows, "in_a_row": int(self._in_a_row)}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what was usual for another gate."""
        known = state.get(SPIKE, {})
        self._in_a_row.fill_(known.get("in_a_row", 0))
        for name, window in self._windows.items():
            if name in known:
                window.load(known[name])

    def _looked_at(
        self, gradients: Gradients | None, norms: Sequence[Tensor]
    ) -> list[Tensor]:
        """Return norms before and now, those now finite as the elements are.

        Norms before that were taken earlier are as they were found then.
        """
        if gradients is None:
            return []
        before, now = norms
        finite = gradients.largest().isfinite().all()
        most = torch.finfo(torch.float32).max
        as_elements = torch.where(finite & now.isinf(), most, now)
        return [as_elements if before is now else before, as_elements]

    def _is_outlier(self, logs: Mapping[str, Tensor], finite: Tensor) -> Tensor:
        """Return whether a finite step is one, and learn from it if it is not."""
        sigma = self._settings.on_spike.sigma
        outlier = torch.zeros_like(finite)
        for name, window in self._windows.items():
            above = logs[name] > window.limit(sigma)
            outlier = outlier | (above & logs[name].isfinite() & finite)
        shifted = outlier & (self._in_a_row >= self._settings.max_consecutive_skips)
        outlier = outlier & ~shifted
        usual = finite & ~outlier
        for name, window in self._windows.items():
            window.clear_where(shifted)
            window.add_where(usual & logs[name].isfinite(), logs[name])
        self._shifts = self._shifts + shifted
        self._in_a_row = torch.where(usual, 0, self._in_a_row + outlier)
        return outlier

    def _tell_of(self, records: Records, row: int) -> None:
        nonfinite = bool(records.nonfinite[row])
        self._streak += 1
        self._nonfinite_streak += nonfinite
        most = self._settings.max_consecutive_skips
        if self._streak > 1 and self._nonfinite_streak <= most:
            return
        where = f"step {records.steps[row]}"
        if nonfinite:
            holders = records.nonfinite_gradients[row].nonzero()[0]
            bad = named([records.names[place] for place in holders])
            text = f"{where}: gradients are not finite: {bad}"
        else:
            norms = records.before[row].tolist()
            text = (
                f"{where}: the total before clipping is {records.total_before[row]:.3g}, "
                f"the loss {records.loss[row]:.3g}, far above the recent ones; "
                f"{carriers(records.names, norms)}; look at this batch"
            )
        if self._nonfinite_streak > most:
            self._ending = NonFiniteGradientError(
                f"{text} (max_consecutive_skips={most} steps were skipped before)"
            )
        if self._streak == 1:
            warnings.warn(f"update skipped at {text}", stacklevel=3)

    def _take_back(self, *_: object) -> None:
        """Leave the optimizer as it was: the hook behind a step."""
        held = vars(self._optimizer)
        if self._given is not None and held.get("found_inf") is self._given:
            held["found_inf"] = self._scalers
            if self._scalers is None:
                del held["found_inf"]
        self._given = self._scalers = None
