"""One optimizer's gradients: measured at both moments, kept, and handed out as records."""

from collections.abc import Callable
from operator import is_

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradguard.clipping.clipper import Clipper
from gradguard.fit.buffer import Buffer
from gradguard.fit.spikes import SpikeDetector
from gradguard.gradients.columns import parameters_of
from gradguard.gradients.flat_norms import quick_norms
from gradguard.gradients.scaling import (
    after_unless_skipped,
    scale_at_update,
    unscale_at_update,
    unscaled,
)
from gradguard.guard.gate import Gate
from gradguard.hooks.takeover import MeasuredGradients, hooked_by_others, known
from gradguard.records.records import MISSING, REFUSED, Records


class Ledger:
    """Measure, clip and keep the gradients of one optimizer.

    Args:
        optimizer: Whose gradients.
        clipper: What clips its parameters; without policies it leaves them alone.
        steps_per_write: Steps to keep before they are due.
        gate: What stops updates that are not finite; None lets all pass.

    Attributes:
        clipper: As given.
        columns: The parameters.
        due: Whether it is time to drain.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        clipper: Clipper,
        steps_per_write: int,
        gate: Gate | None = None,
    ) -> None:
        self.clipper = clipper
        self.columns = clipper.columns
        self._optimizer = optimizer
        self._policies = clipper.policies
        self._gate = gate
        parameters = self.columns.parameters
        self._buffer = Buffer(len(parameters), steps_per_write, parameters[0].device)
        self._alarm = SpikeDetector(len(parameters))
        # One for all steps: making it costs as much again.
        self._no_grad = torch.no_grad()
        self._before: Tensor | None = None
        self._known: MeasuredGradients | None = None
        self._exact = False
        self._announced: int | None = None
        self._last_step = -1
        self._lacks_loss = False
        self.due = False

    @property
    def outdated(self) -> bool:
        """Whether the optimizer holds other parameters by now."""
        columns = self.columns.parameters
        held = parameters_of(self._optimizer)
        return len(held) != len(columns) or not all(map(is_, held, columns))

    @property
    def saw_before(self) -> bool:
        """Whether the norms before the coming update are taken."""
        return self._before is not None

    @property
    def saw_before_again(self) -> bool:
        """Whether they are, and it is not the first update."""
        return self._before is not None and self._last_step >= 0

    def see_before(self, scale: Tensor | None) -> None:
        """Take the norms now as those before clipping, divided by the loss scale."""
        self._before = None
        if self._policies:
            return  # measured in the pass that clips
        norms = self._norms_now()
        if norms is not None:
            self._before = unscaled(norms, scale)

    @torch.no_grad()
    def see_before_clip(self, *, exact: bool) -> None:
        """Take the norms before clipping, and mark gradients so as to see them touched.

        Args:
            exact: Round as torch's clip does, for `see_clip`.
        """
        self._before, self._known = None, None
        gradients = self.columns.gradients()
        if not gradients:
            return
        norms = gradients.norms() if exact else quick_norms(gradients)
        self._before = self.columns.row(norms)
        self._known, self._exact = known(gradients, norms), exact

    @torch.no_grad()
    def see_clip(self, max_norm: float) -> bool:
        """Clip by the norm over all gradients, if that can be done as torch does it.

        Returns:
            Whether it is done.
        """
        if self._known is None or not self._exact or not self.columns.distinct:
            return False
        return self._known.clip(self.columns.found(), max_norm)

    def see_announced(self, step: int) -> None:
        """Note that a scaler is about to update the parameters, or to skip that."""
        self._keep_skipped()
        self._announced = step

    def see_update(self, step: int, loss: object) -> None:
        """Clip if asked to, and keep what was before and what is now.

        Args:
            step: Updates completed so far. Where it did not move since the last one
                (several a batch, a step behind Lightning's back), the next free number
                is taken.
            loss: What the closure returned, if there was one.

        Raises:
            NonFiniteGradientError: If the gate does.
        """
        self._announced = None
        with self._no_grad:
            if not self._knows(step):
                self._take(step, loss)

    def see_scaled(self, coefficient: Callable[[Tensor], Tensor]) -> None:
        """Keep the announced update, of gradients scaled by a function of the norms."""
        step, self._announced = self._announced, None
        if step is not None and self._before is not None:
            self._keep(step, self._before, self._before * coefficient(self._before))

    def see_loss(self, loss: object) -> None:
        """Add the loss to the step just kept, if it is one and the step has none."""
        if self._lacks_loss and isinstance(loss, Tensor) and loss.numel() == 1:
            self._buffer.put_loss(loss)
            self._lacks_loss = False

    def see_batch_end(self, loss: object) -> bool:
        """Add the loss, where it was not known before; return if it is time to drain."""
        self._keep_skipped()
        self.see_loss(loss)
        due, self.due, self._lacks_loss = self.due, False, False
        return due

    def drain(self) -> Records | None:
        """Take out every step kept so far, in one copy; None if there is none."""
        if not self._buffer.steps:
            return None
        self.due = False
        records = self._buffer.drain(self.columns.names, self.columns.order)
        self._alarm.learn(records.total_before)
        return records

    def _take(self, step: int, loss: object) -> None:
        """Clip, measure and keep an update; see `see_update`."""
        gradients = self.columns.gradients(to_clip=bool(self._policies))
        if not gradients:
            self._before = None
            if self._gate:
                self._gate.is_bad()  # others may have some, and wait for us
            return
        if self._policies:
            unscale_at_update(self._optimizer, gradients)
        norms = gradients.norms() if self._policies else quick_norms(gradients)
        if self._gate and self._gate.is_bad(*self._rows(norms)):
            norms = gradients.norms(exact=True)  # float32 squares may have overflowed
            if self._gate.is_bad(*self._rows(norms)):
                self._refuse(self._gate, step, norms, loss)
                return
        if self._policies:
            before = self.columns.row(norms)
            after = self.clipper.clip_these(gradients, norms)
        else:
            before, after = self._rows(norms)
        self._keep(step, before, after_unless_skipped(self._optimizer, after))

    def _knows(self, step: int) -> bool:
        """Keep an update of gradients whose norms are known; return whether it is one."""
        known, self._known = self._known, None
        if known is None or self._before is None or hooked_by_others(self._optimizer):
            return False
        after = known.norms(self.columns.found())
        if after is None:
            return False
        self._keep(step, self._before, self.columns.row(after))
        return True

    @torch.no_grad()
    def _norms_now(self) -> Tensor | None:
        """Return the norms `[P]` as they are now, None if there are no gradients."""
        gradients = self.columns.gradients()
        return self.columns.row(quick_norms(gradients)) if gradients else None

    def _rows(self, norms: Tensor) -> tuple[Tensor, Tensor]:
        """Return the norms `[P]` before, and as they are now."""
        now = unscaled(self.columns.row(norms), scale_at_update(self._optimizer))
        return now if self._before is None else self._before, now

    def _refuse(self, gate: Gate, step: int, norms: Tensor, loss: object) -> None:
        """Keep a step that is not to be, and stop it."""
        before, now = self._rows(norms)
        self._keep(step, before, torch.full_like(before, REFUSED))
        gate.stop(self._last_step, before, now, loss)

    def _keep(self, step: int, before: Tensor, after: Tensor) -> None:
        self._before = None
        self._last_step = max(step, self._last_step + 1)
        self._buffer.put(self._last_step, before, after)
        self._lacks_loss = True
        if self._buffer.full or self._alarm.rings(before, after):
            self.due = True

    def _keep_skipped(self) -> None:
        """Keep a step the scaler has skipped: gradients before, and none after."""
        step, self._announced = self._announced, None
        if step is None:
            return
        before = self._before
        if before is None:  # they are still there, unscaled by the scaler
            before = self._norms_now()
        if before is None:
            return
        self._keep(step, before, torch.full_like(before, MISSING))
