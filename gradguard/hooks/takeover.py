"""The Trainer's own clip without a pass of its own: to the bit what torch's does.

Where gradguard only observes, and nothing but the Trainer's clip by norm comes between
`on_before_optimizer_step` and the update, that clip is done with the norms just taken, and
the norms after follow from them: gradients are read once in place of three times. Whatever
touches a gradient meanwhile is seen by its version counter, and all is measured again.
"""

import math
from collections.abc import Callable, Sequence
from operator import attrgetter, is_
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_pre_hooks

from gradguard.clipping.fixed import ClipNorm
from gradguard.gradients.columns import ParameterColumns
from gradguard.gradients.norms import Gradients
from gradguard.hooks.loss_scale import uses_scaler
from gradguard.hooks.moment import BEFORE_OPTIMIZER_STEP, Mode, moment_of
from gradguard.hooks.overrides import overrides

# The squares of larger norms may overflow in torch's total; its clip then zeroes gradients.
_LARGEST_NORM = 1e15

_version = attrgetter("_version")


class TrainerClip:
    """Clip one optimizer's gradients in the Trainer's place, with norms already taken.

    Args:
        optimizer: Whose gradients.
        columns: Its parameters.
        unpatched: Whether the Trainer's clip is still what it was at the start.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        columns: ParameterColumns,
        unpatched: Callable[[], bool],
    ) -> None:
        self._optimizer = optimizer
        self._columns = columns
        self._unpatched = unpatched
        self._measured: MeasuredGradients | None = None

    def remember(self, gradients: Gradients, norms: Tensor) -> None:
        """Keep gradients with their norms `[n]`, so as to see them touched."""
        self._measured = measured(gradients, norms)

    @torch.no_grad()
    def clip(self, max_norm: float) -> bool:
        """Clip by the norm over all gradients, if that can be done as torch does it.

        Returns:
            Whether it is done.
        """
        if self._measured is None or not self._columns.distinct:
            return False
        return self._unpatched() and self._measured.clip(
            self._columns.found(), max_norm
        )

    def norms_after(self) -> Tensor | None:
        """Return the norms after the clip, `[n]`; None where they are to be measured."""
        known, self._measured = self._measured, None
        if known is None or _hooked_by_others(self._optimizer):
            return None
        return known.norms(self._columns.found())


TrainerClips: TypeAlias = Callable[[Optimizer, ParameterColumns], TrainerClip]
"""Makes the `TrainerClip` of an optimizer with its parameters."""


def trainer_clips(mode: Mode) -> TrainerClips | None:
    """Return what makes a fit's `TrainerClip`s; None where more touches gradients."""
    trainer = mode.trainer
    if moment_of(mode) != BEFORE_OPTIMIZER_STEP or not _nothing_else_clips(mode):
        return None
    chain = _clip_chain(trainer)

    def make(optimizer: Optimizer, columns: ParameterColumns) -> TrainerClip:
        return TrainerClip(optimizer, columns, lambda: _clip_chain(trainer) == chain)

    return make


class MeasuredGradients:
    """Gradients whose norms are known, as long as nobody else touches them.

    Args:
        gradients: `n` gradients, dense, on the CPU, in single or double precision.
        norms: Their L2 norms, `[n]`.
    """

    def __init__(self, gradients: Gradients, norms: Tensor) -> None:
        self._gradients = gradients
        self._norms = norms
        self._changes = _changes(gradients.tensors)

    def norms(self, found: Sequence[Tensor]) -> Tensor | None:
        """Return the norms, None if those found are others or have been changed."""
        known = self._gradients.tensors
        same = len(found) == len(known) and all(map(is_, found, known))
        return self._norms if same and _changes(found) == self._changes else None

    def clip(self, found: Sequence[Tensor], max_norm: float) -> bool:
        """Clip in place as `torch.nn.utils.clip_grad_norm_`; return whether it is done.

        Not where gradients were touched, or torch does not do as `ClipNorm`: squares
        overflow, a number is not finite, there is no threshold.
        """
        norms = self.norms(found)
        if norms is None or not (0 < max_norm < math.inf):
            return False
        if not norms.numpy().max() < _LARGEST_NORM:
            return False
        self._norms = ClipNorm(max_norm).clip(self._gradients, norms, {})
        self._changes = _changes(found)
        return True


def measured(gradients: Gradients, norms: Tensor) -> MeasuredGradients | None:
    """Pair gradients with norms that hold until someone writes to them.

    None where a write could go unseen: on accelerators, whose overflows are not looked at,
    in half precision, which rounds every product, and of sparse, complex and inference
    tensors.
    """
    if not (gradients.are_plain and gradients.on_host) or gradients.any_half:
        return None
    if any(map(Tensor.is_inference, gradients.tensors)):
        return None
    return MeasuredGradients(gradients, norms)


def _nothing_else_clips(mode: Mode) -> bool:
    """Whether only the Trainer's clip comes between the backward pass and the update."""
    trainer, module = mode.trainer, mode.module
    clip = ("clip_gradients", "clip_grad_by_norm", "main_params")
    hooks = (
        (module, "on_before_optimizer_step"),
        (module, "configure_gradient_clipping"),
        (module, "clip_gradients"),
        (trainer.strategy, "optimizer_step"),
        *((other, "on_before_optimizer_step") for other in mode.behind),
        *((trainer.precision_plugin, hook) for hook in ("optimizer_step", *clip)),
    )
    overridden = any(overrides(*hook) for hook in hooks)
    home = getattr(torch.nn.utils.clip_grad_norm_, "__globals__", {})
    replaced = home.get("__name__") != "torch.nn.utils.clip_grad"
    return not (uses_scaler(trainer) or overridden or replaced)


def _clip_chain(trainer: Any) -> tuple[Any, ...]:
    """Return what the Trainer's clip by norm calls; equal as long as nobody patches it."""
    plugin = trainer.precision_plugin
    return torch.nn.utils.clip_grad_norm_, plugin.clip_grad_by_norm, plugin.main_params


def _hooked_by_others(optimizer: Optimizer) -> bool:
    """Whether somebody else, too, may act between closure and update."""
    hooks = vars(optimizer).get("_optimizer_step_pre_hooks", ())
    # One of each is ours.
    return len(hooks) > 1 or len(_global_optimizer_pre_hooks) > 1


def _changes(tensors: Sequence[Tensor]) -> int:
    """Return how often tensors have been changed in place; it only ever grows."""
    return sum(map(_version, tensors))
