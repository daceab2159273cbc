"""The loss scale: what gradients are multiplied by under a gradient scaler, and when."""

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradguard.gradients.norms import Gradients
from gradguard.records.records import MISSING
from gradguard.trainer import Trainer


def uses_scaler(trainer: Trainer) -> bool:
    """Whether a gradient scaler takes part, so that steps may be skipped."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return scaler is not None and scaler.is_enabled()


def scale_in_force(trainer: Trainer) -> Tensor | None:
    """Return what the loss is multiplied by, 0-d, None without a scaler; never syncs."""
    if not uses_scaler(trainer):
        return None
    scale: Tensor | None = trainer.precision_plugin.scaler._scale  # get_scale() syncs
    return scale


def loss_scale(trainer: Trainer, optimizer: Optimizer) -> Tensor | None:
    """Return what an optimizer's gradients are multiplied by now, 0-d, None if by nothing.

    Until the scaler has unscaled them, which it does before `on_before_optimizer_step`,
    except for optimizers that do so inside their update (fused ones). Never syncs.
    """
    if not uses_scaler(trainer):
        return None
    # Private, but nothing else tells the stage.
    states = trainer.precision_plugin.scaler._per_optimizer_states
    if states[id(optimizer)]["stage"].name == "UNSCALED":
        return None
    return scale_in_force(trainer)


def unscaled(norms: Tensor, scale: Tensor | None) -> Tensor:
    """Return norms / scale, with missing ones as they are."""
    if scale is None:
        return norms
    return torch.where(norms < 0, norms, norms / scale.to(norms.device))


def scale_at_update(optimizer: Optimizer) -> Tensor | None:
    """Return what gradients are still multiplied by at the update, None if by nothing."""
    scale: Tensor | None = getattr(optimizer, "grad_scale", None)
    return scale


def unscale_at_update(optimizer: Optimizer, gradients: Gradients) -> None:
    """Divide the gradients by the scale, so that the update will not."""
    scale = scale_at_update(optimizer)
    if scale is None:
        return
    for (_, device), positions in gradients.groups.items():
        torch._foreach_div_(gradients.at(positions), scale.to(device))
    optimizer.grad_scale = None  # type: ignore[attr-defined] # set by the scaler


def after_unless_skipped(optimizer: Optimizer, after: Tensor) -> Tensor:
    """Return the norms, or none at all if the update is going to skip itself."""
    found_inf: Tensor | None = getattr(optimizer, "found_inf", None)
    if found_inf is None:
        return after
    return torch.where(found_inf.to(after.device) > 0, MISSING, after)
