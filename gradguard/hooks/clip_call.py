"""The instant before `LightningModule.clip_gradients` clips, for which there is no hook."""

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer


def at_clip_call(
    trainer: Any, act: Callable[[Optimizer, float, str], bool]
) -> Callable[[], None]:
    """Call `act` before each `LightningModule.clip_gradients`; return the undo.

    Shadows one method of the Trainer's precision plugin, the single thing of Lightning
    that is touched: there is no hook.

    Args:
        trainer: Whose plugin.
        act: Given optimizer, threshold and algorithm ("norm" or "value"). If it returns
            True it has clipped, and the method is not called.
    """
    plugin = trainer.precision_plugin
    given = vars(plugin).get("clip_gradients")
    call = plugin.clip_gradients = _ClipCall(plugin, act)

    def undo() -> None:
        call.act = None  # whoever has wrapped it meanwhile keeps the method
        if vars(plugin).get("clip_gradients") is call:
            del plugin.clip_gradients
            if given is not None:
                plugin.clip_gradients = given

    return undo


class _ClipCall:
    """A method of a precision plugin, and what is called ahead of it."""

    def __init__(
        self, plugin: Any, act: Callable[[Optimizer, float, str], bool] | None
    ) -> None:
        self._plugin = plugin
        self._clip_gradients = plugin.clip_gradients
        self.act = act

    def __call__(
        self,
        optimizer: Optimizer,
        clip_val: float = 0.0,
        gradient_clip_algorithm: Any = "norm",
    ) -> None:
        if not (self.act and self.act(optimizer, clip_val, gradient_clip_algorithm)):
            self._clip_gradients(optimizer, clip_val, gradient_clip_algorithm)

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy of the plugin belongs to another fit: it has the method of its class.
        return getattr, (self._plugin, "clip_gradients")
