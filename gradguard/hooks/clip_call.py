"""The instant before `LightningModule.clip_gradients` clips, for which there is no hook."""

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

from gradguard.hooks.shadow import shadow


def at_clip_call(
    trainer: Any, act: Callable[[Optimizer, float, str], bool]
) -> Callable[[], None]:
    """Call `act` before each `LightningModule.clip_gradients`; return the undo.

    Shadows a method of the Trainer's precision plugin: there is no hook.

    Args:
        trainer: Whose plugin.
        act: Given optimizer, threshold and algorithm ("norm" or "value"). If it returns
            True it has clipped, and the method is not called.
    """

    def clip(
        clip_gradients: Callable[[Optimizer, float, Any], None],
        optimizer: Optimizer,
        clip_val: float = 0.0,
        gradient_clip_algorithm: Any = "norm",
    ) -> None:
        if not act(optimizer, clip_val, gradient_clip_algorithm):
            clip_gradients(optimizer, clip_val, gradient_clip_algorithm)

    return shadow(trainer.precision_plugin, "clip_gradients", clip)
