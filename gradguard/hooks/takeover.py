"""The Trainer's own clip without a pass of its own: to the bit what torch's does."""

import math
from collections.abc import Sequence
from operator import attrgetter, is_
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_pre_hooks

from gradguard.clipping.fixed import ClipNorm
from gradguard.gradients.norms import Gradients
from gradguard.gradients.scaling import uses_scaler
from gradguard.hooks.moment import BEFORE_OPTIMIZER_STEP, overrides

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
    home = getattr(torch.nn.utils.clip_grad_norm_, "__globals__", {})
    replaced = home.get("__name__") != "torch.nn.utils.clip_grad"
    return not (uses_scaler(trainer) or overridden or replaced)


def clip_chain(trainer: Any) -> tuple[Any, ...]:
    """Return what the Trainer's clip by norm calls; equal as long as nobody patches it."""
    plugin = trainer.precision_plugin
    return torch.nn.utils.clip_grad_norm_, plugin.clip_grad_by_norm, plugin.main_params


def hooked_by_others(optimizer: Optimizer) -> bool:
    """Whether somebody else, too, may act between closure and update."""
    hooks = vars(optimizer).get("_optimizer_step_pre_hooks", ())
    return len(hooks) > 1 or bool(_global_optimizer_pre_hooks)


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


def _changes(tensors: Sequence[Tensor]) -> int:
    """Return how often tensors have been changed in place; it only ever grows."""
    return sum(map(_version, tensors))


def known(gradients: Gradients, norms: Tensor) -> MeasuredGradients | None:
    """Return gradients with their norms, None where changes cannot be told or foreseen.

    On accelerators, whose overflows are not looked at, in half precision, which rounds
    every product, and of sparse, complex and inference tensors.
    """
    if not (gradients.are_plain and gradients.on_host) or gradients.any_half:
        return None
    if any(map(Tensor.is_inference, gradients.tensors)):
        return None
    return MeasuredGradients(gradients, norms)
