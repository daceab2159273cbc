"""The Trainer's own clip in one pass: to the bit what torch's does, and the norms known."""

import math
from collections.abc import Sequence
from operator import attrgetter, is_
from typing import Any

import torch
from torch import Tensor

from gradguard.clipping import ClipNorm
from gradguard.flat_norms import quick_norms
from gradguard.moments import BEFORE_OPTIMIZER_STEP, overrides
from gradguard.norms import Gradients
from gradguard.scaling import uses_scaler

# The squares of larger norms may overflow in torch's total; its clip then zeroes gradients.
_LARGEST_NORM = 1e15

_version = attrgetter("_version")


def nothing_else_clips(trainer: Any, module: Any, callback: object) -> bool:
    """Whether only the Trainer's clip comes between the backward pass and the update.

    Where `callback` may take the norms before at `on_before_optimizer_step`.
    """
    behind = trainer.callbacks[trainer.callbacks.index(callback) + 1 :]
    clip = ("clip_gradients", "clip_grad_by_norm", "main_params")
    hooks = (
        (module, BEFORE_OPTIMIZER_STEP),
        (module, "configure_gradient_clipping"),
        (module, "clip_gradients"),
        (trainer.strategy, "optimizer_step"),
        *((other, BEFORE_OPTIMIZER_STEP) for other in behind),
        *((trainer.precision_plugin, hook) for hook in ("optimizer_step", *clip)),
    )
    overridden = any(overrides(*hook) for hook in hooks)
    replaced = torch.nn.utils.clip_grad_norm_.__module__ != "torch.nn.utils.clip_grad"
    return not (uses_scaler(trainer) or overridden or replaced)


class Clipped:
    """Gradients as a clip left them, and their norms.

    Args:
        tensors: `n` gradients.
        norms: Their L2 norms, `[n]`.
    """

    def __init__(self, tensors: Sequence[Tensor], norms: Tensor) -> None:
        self._tensors = tensors
        self._versions = list(map(_version, tensors))
        self._norms = norms

    def norms(self, found: Sequence[Tensor]) -> Tensor | None:
        """Return the norms, None if those found are others or have been changed."""
        same = len(found) == len(self._tensors) and all(map(is_, found, self._tensors))
        unchanged = same and list(map(_version, found)) == self._versions
        return self._norms if unchanged else None


def clip_once(gradients: Gradients, max_norm: float) -> tuple[Tensor, Clipped] | None:
    """Clip in place as `torch.nn.utils.clip_grad_norm_`; return the norms before, `[n]`.

    Not at all for a `max_norm` of 0. None, with nothing done, where torch does not do as
    `ClipNorm`, or where its result has to be measured: on accelerators, whose overflows
    are not looked at, in half precision, and where squares overflow.
    """
    if not (gradients.are_plain and gradients.on_host) or gradients.any_half:
        return None
    if max_norm <= 0:
        before = after = quick_norms(gradients)
    else:
        before = gradients.norms()
        if not (before.numpy().max() < _LARGEST_NORM and max_norm < math.inf):
            return None
        after = ClipNorm(max_norm).clip(gradients, before, {})
    return before, Clipped(gradients.tensors, after)
