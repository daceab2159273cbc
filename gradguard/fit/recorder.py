"""One optimizer's steps: measured at both moments, clipped or stopped if asked, and written."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from gradguard.clipping.clipper import Clipper
from gradguard.clipping.policy import State
from gradguard.errors import BadStepError
from gradguard.fit.buffer import Buffer
from gradguard.fit.cautions import missed
from gradguard.fit.context import FitContext
from gradguard.fit.parts import Parts
from gradguard.fit.spikes import SpikeDetector
from gradguard.gradients.norms import Gradients
from gradguard.gradients.scaling import (
    after_unless_skipped,
    scale_at_update,
    unscale_at_update,
    unscaled,
)
from gradguard.guard.gate import NON_FINITE, Bad, Gate
from gradguard.guard.on_device import DeviceGate
from gradguard.hooks.loss_scale import scale_in_force
from gradguard.hooks.tensor_hooks import BeforeTensorHooks, before_tensor_hooks
from gradguard.hooks.update import Update
from gradguard.records.intervals import LOSS_SCALE, threshold_tag
from gradguard.records.records import MISSING, REFUSED, Records

# Steps between two writes where the Trainer names none (`log_every_n_steps=0`).
_STEPS_PER_WRITE = 50


class StepRecorder:
    """Measure, clip, stop and write the steps of one optimizer.

    Args:
        optimizer: Whose steps.
        fit: The fit.
        make: Makes what an optimizer's parameters are watched with, as they are now.

    Attributes:
        optimizer: Whose steps; another one after `hand_over`.
        last_step: The step recorded last, -1 before the first.
        updates: How many were recorded since the start of the fit, and those skipped.
        missed_before: Whether the last update came with no norms before it taken.
    """

    def __init__(
        self, optimizer: Optimizer, fit: FitContext, make: Callable[[Optimizer], Parts]
    ) -> None:
        self.optimizer = optimizer
        self._fit = fit
        self._policies = fit.wanted.policies
        self._make = make
        self._updates = Update(self._see_update, self._say_missed)
        self._undo: list[Callable[[], None]] = []
        # One for all steps: making it costs as much again.
        self._no_grad = torch.no_grad()
        self._before: Tensor | None = None
        self._announced: int | None = None
        self._lacks_loss = False
        self._due = False
        self._set_aside: State | None = None
        self._hooked: BeforeTensorHooks | None = None
        self._device_gate: DeviceGate | None = None
        self._is_alone = True
        self.updates = 0
        self.last_step = -1
        self.missed_before = False
        self._open()

    @property
    def parameters(self) -> Sequence[Tensor]:
        """What the optimizer held when it was looked at last."""
        return self._columns.parameters

    @property
    def is_new(self) -> bool:
        """Whether nothing was recorded since the start of the fit."""
        return not self.updates

    @property
    def is_updating(self) -> bool:
        """Whether a step is under way."""
        return self._updates.is_running

    @property
    def saw_before(self) -> bool:
        """Whether the norms before the coming update are taken."""
        return self._before is not None

    def on_batch_start(self, *, is_first: bool) -> None:
        """Take it that no step is under way; look for tensor hooks once an epoch."""
        self._updates.reset()
        if is_first:
            self._look_for_hooks()

    def take_before(self, scale: Tensor | None = None) -> None:
        """Take the norms now as those before clipping, divided by the loss scale."""
        self._before = None
        if self._fit.is_trial:
            return
        self._keep_up()
        if self._policies:
            return  # measured in the pass that clips
        with self._no_grad:
            gradients = self._columns.gradients()
            if not gradients:
                return
            norms = gradients.norms()
            self._before = unscaled(self._ahead_of_hooks(norms), scale)
            if self._trainer_clip:
                self._trainer_clip.remember(gradients, norms)

    def clip_for_trainer(self, max_norm: float) -> bool:
        """Do the Trainer's clip by norm, if that can be done as torch does it."""
        return self._trainer_clip is not None and self._trainer_clip.clip(max_norm)

    def announce(self) -> None:
        """Note that a gradient scaler is about to update the parameters, or to skip that."""
        self._keep_skipped()
        self._announced = self._fit.completed

    def attach(self, optimizer: Optimizer) -> None:
        """See updates by an optimizer, too: one inside the first, or in its place."""
        self._undo.append(self._updates.attach(optimizer))
        if optimizer is not self.optimizer:
            self._is_alone = False
            self._decide_on_host()

    def hand_over(self, optimizer: Optimizer) -> None:
        """Go on with another optimizer of the same parameters."""
        self.write()
        learned = self.learned()
        self.optimizer = optimizer
        self._open()
        self.take_up(learned)
        self.attach(optimizer)

    def on_update(self, result: object) -> None:
        """Clip if asked to, and keep the norms before and as they are now.

        Args:
            result: What the closure returned, None if there was none.

        Raises:
            BadStepError: If the gate does.
        """
        self._end_trial()
        self._announced = None
        loss = loss_in(result)
        if self._before is None:
            self._keep_up()
        with self._no_grad:
            if not self._keep_known():
                self._take(loss)
        if self._hooked:
            self._hooked.forget()
        self._put_loss(loss)
        if self._epochs:
            self._epochs.see_update()

    def on_trial(self, result: object) -> None:
        """Clip and stop as in the fit, and keep nothing: a tuner tries something out.

        What policies learn from it is forgotten afterwards.
        """
        if self._set_aside is None:
            self._set_aside = self.learned()
        self._keep_up()
        with self._no_grad:
            self._take(loss_in(result))

    def on_scaled(self, coefficient: Callable[[Tensor], Tensor]) -> None:
        """Keep the announced update, of gradients scaled by a function of the norms."""
        step, self._announced = self._announced, None
        if step is not None and self._before is not None:
            self._keep(step, self._before, self._before * coefficient(self._before))

    def on_batch_end(self, outputs: object) -> None:
        """Add the loss, where it was not known before, and write if it is time to."""
        self._keep_skipped()
        if self._lacks_loss:
            self._put_loss(loss_in(outputs))
            self._lacks_loss = False
        if self._epochs:
            self._epochs.see_updated()
        if self._due:
            self.write()

    def on_epoch_end(self) -> None:
        """Measure the weights; the next write takes them along."""
        if self._epochs:
            self._epochs.see_epoch_end()

    def close(self) -> None:
        """Leave no trace on the optimizers."""
        while self._undo:
            self._undo.pop()()
        if self._hooked:
            self._hooked.close()
        if self._device_gate:
            self._device_gate.close()

    def write(self) -> None:
        """Write every step and epoch measured so far, and where a bad step is saved."""
        with np.errstate(all="ignore"):  # what others have asked NumPy to raise
            records = self._drain()
            if records is not None and self._fit.loggers:
                self._fit.loggers.write(self._schema, records, self._in_force())
        epochs = self._epochs.drain() if self._epochs else None
        if epochs is not None and self._fit.loggers:
            step = self._fit.completed
            self._fit.loggers.write_epochs(self._schema, epochs, step=step)
        while saved := self._fit.dump.take_saved(self._columns):
            step, file = saved
            if self._fit.loggers:
                self._fit.loggers.write_saved_step(self._schema, step, str(file))

    def learned(self) -> State:
        """Return what the policies and the gate have learned, in a form to save."""
        gate = self._device_gate or self._gate
        return {**self._clipper.state_dict(), **(gate.state_dict() if gate else {})}

    def take_up(self, learned: State) -> None:
        """Go on from what the policies and the gate had learned elsewhere."""
        self._set_aside = None
        self._clipper = Clipper.over(self._columns, self._policies)
        self._clipper.load_state_dict(learned)
        gate = self._device_gate or self._gate
        if gate:
            gate.load_state_dict(learned)

    def _see_update(self, result: object) -> None:
        """Do at an update what the moment asks for; what an observer lacks is no error."""
        try:
            (self.on_trial if self._fit.is_trial else self.on_update)(result)
        except (BadStepError, Warning):  # a warning that is to be an error
            raise
        except Exception as error:
            if not self._fit.wanted.observes:
                raise
            self._fit.trouble(error)

    def _say_missed(self) -> None:
        self._fit.say(missed(self.optimizer, self._fit.wanted))

    def _end_trial(self) -> None:
        if self._set_aside is not None:
            self.take_up(self._set_aside)

    def _open(self) -> None:
        """Make what depends on the parameters the optimizer holds."""
        if self._hooked:
            self._hooked.close()
        if self._device_gate:
            self._device_gate.close()
        parts = self._make(self.optimizer)
        self._columns, self._schema = parts.columns, parts.schema
        self._gate, self._epochs = parts.gate, parts.epochs
        self._device_gate = parts.device_gate
        if not self._is_alone:
            self._decide_on_host()
        self._trainer_clip, self._hooked = parts.trainer_clip, parts.hooked
        self._clipper = Clipper.over(self._columns, self._policies)
        parameters = self._columns.parameters
        steps = self._fit.trainer.log_every_n_steps or _STEPS_PER_WRITE
        self._buffer = Buffer(len(parameters), steps, parameters[0].device)
        self._spikes = SpikeDetector(len(parameters))

    def _decide_on_host(self) -> None:
        """Do without what is told to one optimizer only: another may do the update."""
        if self._device_gate and self._gate:
            self._gate.load_state_dict(self._device_gate.state_dict())
            self._device_gate.close()
            self._device_gate = None

    def _look_for_hooks(self) -> None:
        if self._hooked:
            self._hooked.close()
        self._hooked = before_tensor_hooks(self._columns.parameters)

    def _keep_up(self) -> None:
        """Start anew where the optimizer holds other parameters by now."""
        if self._columns.are_those_of(self.optimizer):
            return
        self.write()
        learned = self.learned()
        self._open()
        self.take_up(learned)

    def _take(self, loss: Tensor | float | None) -> None:
        """Clip, measure and keep an update; see `on_update`."""
        gradients = self._columns.gradients(to_clip=bool(self._policies))
        if not gradients:
            self._before = None
            # Other processes may have some, and wait for us.
            if self._device_gate:
                self._device_gate.decide(loss, None)
            elif self._gate:
                self._gate.look(self._fit.completed, loss)
            return
        if self._policies:
            unscale_at_update(self.optimizer, gradients)
        if self._device_gate:
            self._take_late(self._device_gate, gradients, loss)
            return
        norms = self._admitted(gradients, loss)
        if norms is None:
            return
        before, after = self._before_and_now(norms)
        if self._policies:
            before = self._ahead_of_hooks(norms)
            after = self._clipper.clip_these(gradients, norms)
        self._keep(
            self._fit.completed, before, after_unless_skipped(self.optimizer, after)
        )

    def _take_late(
        self, gate: DeviceGate, gradients: Gradients, loss: Tensor | float | None
    ) -> None:
        """Do as `_take` where only the device knows whether the update is to be."""
        norms = gradients.norms()
        before, now = self._before_and_now(norms)
        is_trial = self._set_aside is not None
        refused = gate.decide(
            loss, gradients, before, now, watches_spikes=not is_trial
        ).to(norms.device)
        if self._policies:
            before = self._ahead_of_hooks(norms)
            now = self._clipper.clip_these(gradients, torch.where(refused, 0, norms))
        after = after_unless_skipped(self.optimizer, now)
        self._keep(self._fit.completed, before, torch.where(refused, REFUSED, after))

    def _admitted(
        self, gradients: Gradients, loss: Tensor | float | None
    ) -> Tensor | None:
        """Return the norms as they are, `[n]`; None of a step that is not to be."""
        norms = gradients.norms()
        if self._gate is None:
            return norms
        bad, before, now = self._looked_at(self._gate, norms, loss)
        if bad == NON_FINITE:  # or float32 squares have overflowed
            norms = gradients.norms(exact=True)
            bad, before, now = self._looked_at(self._gate, norms, loss)
        if bad is None:
            return norms
        self._keep(self._fit.completed, before, torch.full_like(before, REFUSED))
        self._gate.stop(self.last_step, bad, before, now, loss)
        return None

    def _looked_at(
        self, gate: Gate, norms: Tensor, loss: Tensor | float | None
    ) -> tuple[Bad | None, Tensor, Tensor]:
        """Return what is bad of a step, and the norms `[P]` before and now."""
        before, now = self._before_and_now(norms)
        is_trial = self._set_aside is not None  # which goes where no fit goes
        step = self._fit.completed
        bad = gate.look(step, loss, before, now, watches_spikes=not is_trial)
        return bad, before, now

    def _keep_known(self) -> bool:
        """Keep an update of gradients whose norms are known; return whether it is one."""
        if self._trainer_clip is None or self._before is None:
            return False
        after = self._trainer_clip.norms_after()
        if after is None:
            return False
        self._keep(self._fit.completed, self._before, self._columns.row(after))
        return True

    def _ahead_of_hooks(self, norms: Tensor) -> Tensor:
        """Return the norms `[P]`, of parameters with tensor hooks those before them."""
        row = self._columns.row(norms)
        return self._hooked.put_into(row) if self._hooked else row

    def _before_and_now(self, norms: Tensor) -> tuple[Tensor, Tensor]:
        """Return the norms `[P]` before, and as they are now."""
        scale = scale_at_update(self.optimizer)
        now = unscaled(self._columns.row(norms), scale)
        self.missed_before = self._before is None
        return now if self._before is None else self._before, now

    def _keep(self, step: int, before: Tensor, after: Tensor) -> None:
        """Put a step into the buffer.

        Args:
            step: Updates completed before. Where that did not move since the last one
                (several a batch, a step behind Lightning's back), the next free number
                is taken.
            before: Norms before clipping, `[P]`.
            after: Norms at the update, `[P]`.
        """
        self._before = None
        if self._set_aside is not None:
            return  # of a trial
        self.updates += 1
        self.last_step = max(step, self.last_step + 1)
        self._buffer.put(self.last_step, before, after)
        self._lacks_loss = True
        if self._buffer.full or self._spikes.is_news(before, after):
            self._due = True

    def _keep_skipped(self) -> None:
        """Keep a step the scaler has skipped: gradients before, and none after."""
        step, self._announced = self._announced, None
        if step is None:
            return
        before = self._before
        if before is None:  # they are still there, unscaled by the scaler
            with self._no_grad:
                gradients = self._columns.gradients()
                if not gradients:
                    return
                before = self._columns.row(gradients.norms())
        self._keep(step, before, torch.full_like(before, MISSING))

    def _put_loss(self, loss: Tensor | float | None) -> None:
        """Add the loss to the step just kept, if it is one and the step has none."""
        if self._lacks_loss and loss is not None:
            self._buffer.put_loss(loss)
            self._lacks_loss = False

    def _drain(self) -> Records | None:
        """Take out every step kept so far, in one copy; None if there is none."""
        self._due = False
        if not self._buffer.steps:
            return None
        records = self._buffer.drain(self._columns.names, self._columns.order)
        self._spikes.learn(records.total_before)
        if self._device_gate:
            self._device_gate.tell(records)
        return records

    def _in_force(self) -> dict[str, float | Tensor]:
        """Return the thresholds and the loss scale as they are now, by tag."""
        thresholds = self._clipper.thresholds()
        values = {threshold_tag(which): value for which, value in thresholds.items()}
        scale = scale_in_force(self._fit.trainer)
        return values if scale is None else {**values, LOSS_SCALE: scale}


def loss_in(result: object) -> Tensor | float | None:
    """Return the loss that a closure or a training step returned; None if none is there.

    A number or a tensor that holds one; of a mapping its "loss", of a sequence its first
    member, of a loss per sample the mean.
    """
    if isinstance(result, Tensor) and result.is_complex():
        return None
    if isinstance(result, Tensor):
        return result if result.numel() == 1 else result.detach().float().mean()
    if isinstance(result, Mapping):
        return loss_in(result.get("loss"))
    if isinstance(result, (tuple, list)):
        return loss_in(result[0]) if result else None
    with suppress(TypeError, ValueError):
        return None if result is None else float(result)  # type: ignore[arg-type] # or it raises
    return None
