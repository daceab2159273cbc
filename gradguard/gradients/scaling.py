"""What a gradient scaler leaves on an optimizer: a scale to divide by, a step to skip."""

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradguard.gradients.norms import Gradients
from gradguard.records.records import MISSING


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
