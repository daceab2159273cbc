"""The loss scale: what gradients are multiplied by under a gradient scaler, and when."""

from torch import Tensor
from torch.optim import Optimizer

from gradguard.hooks.trainer import Trainer


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
