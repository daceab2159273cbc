"""One optimizer's steps: measured at both moments, clipped or stopped if asked, and written."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from gradguard.clipping.clipper import Clipper
from gradguard.clipping.policy import Policy, State
from gradguard.fit.buffer import Buffer
from gradguard.fit.epochs import EpochRows
from gradguard.fit.loggers import Loggers
from gradguard.fit.spikes import SpikeDetector
from gradguard.gradients.columns import ParameterColumns
from gradguard.gradients.norms import Gradients
from gradguard.gradients.scaling import (
    after_unless_skipped,
    scale_at_update,
    scale_in_force,
    unscale_at_update,
    unscaled,
)
from gradguard.guard.gate import Gate
from gradguard.hooks.takeover import TrainerClip
from gradguard.records.intervals import LOSS_SCALE, threshold_tag
from gradguard.records.records import MISSING, REFUSED, Records
from gradguard.records.schema import Schema

# Steps between two writes where the Trainer names none (`log_every_n_steps=0`).
_STEPS_PER_WRITE = 50


@dataclass(frozen=True)
class Parts:
    """What one optimizer's parameters are watched with, made anew when they change.

    Attributes:
        columns: The parameters.
        schema: What the columns of the records mean.
        gate: Stops updates that are not finite; None lets all pass.
        epochs: Measures weights and gradients by epoch; None where nobody asked.
        trainer_clip: Does the Trainer's clip, where that is all that clips.
    """

    columns: ParameterColumns
    schema: Schema
    gate: Gate | None = None
    epochs: EpochRows | None = None
    trainer_clip: TrainerClip | None = None


class StepRecorder:
    """Measure, clip, stop and write the steps of one optimizer.

    Args:
        optimizer: Whose steps.
        trainer: A Trainer of either namespace of Lightning.
        policies: What clips; empty observes.
        loggers: Where the records go.
        make: Makes what the optimizer's parameters are watched with, as they are now.

    Attributes:
        last_step: The step recorded last, -1 before the first.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        trainer: Any,
        policies: Sequence[Policy],
        loggers: Loggers,
        make: Callable[[], Parts],
    ) -> None:
        self._optimizer = optimizer
        self._trainer = trainer
        self._policies = policies
        self._loggers = loggers
        self._make = make
        # One for all steps: making it costs as much again.
        self._no_grad = torch.no_grad()
        self._before: Tensor | None = None
        self._announced: int | None = None
        self._lacks_loss = False
        self._due = False
        self.last_step = -1
        self._open()

    @property
    def saw_before(self) -> bool:
        """Whether the norms before the coming update are taken."""
        return self._before is not None

    def take_before(self, scale: Tensor | None = None) -> None:
        """Take the norms now as those before clipping, divided by the loss scale."""
        self._before = None
        self._keep_up()
        if self._policies:
            return  # measured in the pass that clips
        with self._no_grad:
            gradients = self._columns.gradients()
            if not gradients:
                return
            norms = gradients.norms()
            self._before = unscaled(self._columns.row(norms), scale)
            if self._trainer_clip:
                self._trainer_clip.remember(gradients, norms)

    def clip_for_trainer(self, max_norm: float) -> bool:
        """Do the Trainer's clip by norm, if that can be done as torch does it."""
        return self._trainer_clip is not None and self._trainer_clip.clip(max_norm)

    def announce(self) -> None:
        """Note that a gradient scaler is about to update the parameters, or to skip that."""
        self._keep_skipped()
        self._announced = self._completed()

    def on_update(self, result: object) -> None:
        """Clip if asked to, and keep the norms before and as they are now.

        Args:
            result: What the closure returned, None if there was none.

        Raises:
            NonFiniteGradientError: If the gate does.
        """
        self._announced = None
        loss = loss_in(result)
        if self._before is None:
            self._keep_up()
        with self._no_grad:
            if not self._keep_known():
                self._take(loss)
        self._put_loss(loss)
        if self._epochs:
            self._epochs.see_update()

    def on_scaled(self, coefficient: Callable[[Tensor], Tensor]) -> None:
        """Keep the announced update, of gradients scaled by a function of the norms."""
        step, self._announced = self._announced, None
        if step is not None and self._before is not None:
            self._keep(step, self._before, self._before * coefficient(self._before))

    def on_batch_end(self, outputs: object) -> None:
        """Add the loss, where it was not known before, and write if it is time to."""
        self._keep_skipped()
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

    def write(self) -> None:
        """Write every step and epoch measured so far."""
        with np.errstate(all="ignore"):  # what others have asked NumPy to raise
            records = self._drain()
            if records is not None:
                self._loggers.write(self._schema, records, self._in_force())
        epochs = self._epochs.drain() if self._epochs else None
        if epochs is not None:
            step = self._trainer.global_step
            self._loggers.write_epochs(self._schema, epochs, step=step)

    def learned(self) -> State:
        """Return what the policies have learned, in a form to save."""
        return self._clipper.state_dict()

    def take_up(self, learned: State) -> None:
        """Go on from what the policies had learned elsewhere."""
        self._clipper.load_state_dict(learned)

    def _open(self) -> None:
        """Make what depends on the parameters the optimizer holds."""
        parts = self._make()
        self._columns, self._schema = parts.columns, parts.schema
        self._gate, self._epochs = parts.gate, parts.epochs
        self._trainer_clip = parts.trainer_clip
        self._clipper = Clipper.over(self._columns, self._policies)
        parameters = self._columns.parameters
        steps = self._trainer.log_every_n_steps or _STEPS_PER_WRITE
        self._buffer = Buffer(len(parameters), steps, parameters[0].device)
        self._spikes = SpikeDetector(len(parameters))

    def _keep_up(self) -> None:
        """Start anew where the optimizer holds other parameters by now."""
        if self._columns.are_those_of(self._optimizer):
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
            if self._gate:
                self._gate.is_bad()  # others may have some, and wait for us
            return
        if self._policies:
            unscale_at_update(self._optimizer, gradients)
        norms = self._admitted(gradients, loss)
        if norms is None:
            return
        before, after = self._before_and_now(norms)
        if self._policies:
            before = self._columns.row(norms)
            after = self._clipper.clip_these(gradients, norms)
        self._keep(
            self._completed(), before, after_unless_skipped(self._optimizer, after)
        )

    def _admitted(
        self, gradients: Gradients, loss: Tensor | float | None
    ) -> Tensor | None:
        """Return the norms as they are, `[n]`; None of a step that is not to be."""
        norms = gradients.norms()
        if self._gate is None or not self._gate.is_bad(*self._before_and_now(norms)):
            return norms
        norms = gradients.norms(exact=True)  # float32 squares may have overflowed
        before, now = self._before_and_now(norms)
        if not self._gate.is_bad(before, now):
            return norms
        self._keep(self._completed(), before, torch.full_like(before, REFUSED))
        self._gate.stop(self.last_step, before, now, loss)
        return None

    def _keep_known(self) -> bool:
        """Keep an update of gradients whose norms are known; return whether it is one."""
        if self._trainer_clip is None or self._before is None:
            return False
        after = self._trainer_clip.norms_after()
        if after is None:
            return False
        self._keep(self._completed(), self._before, self._columns.row(after))
        return True

    def _before_and_now(self, norms: Tensor) -> tuple[Tensor, Tensor]:
        """Return the norms `[P]` before, and as they are now."""
        scale = scale_at_update(self._optimizer)
        now = unscaled(self._columns.row(norms), scale)
        return now if self._before is None else self._before, now

    def _completed(self) -> int:
        return int(self._trainer.global_step)

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
        return records

    def _in_force(self) -> dict[str, float | Tensor]:
        """Return the thresholds and the loss scale as they are now, by tag."""
        thresholds = self._clipper.thresholds()
        values = {threshold_tag(which): value for which, value in thresholds.items()}
        scale = scale_in_force(self._trainer)
        return values if scale is None else {**values, LOSS_SCALE: scale}


def loss_in(result: object) -> Tensor | float | None:
    """Return the loss that a closure or a training step returned; None if none is there.

    A number or a tensor that holds one; of a mapping its "loss", of a sequence its first
    member, of a loss per sample the mean.
    """
    if isinstance(result, Mapping):
        return loss_in(result.get("loss"))
    if isinstance(result, (tuple, list)):
        return loss_in(result[0]) if result else None
    if isinstance(result, Tensor):
        loss = result.detach()
        return loss if loss.numel() == 1 else loss.float().mean()
    with suppress(TypeError, ValueError):
        return None if result is None else float(result)  # type: ignore[arg-type] # or it raises
    return None
