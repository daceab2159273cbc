"""Hooks that a fit has no use for, kept from Lightning.

Lightning calls six hooks of every callback at every step, in 1 to 2 us each, whether or
not the hook does anything. One that cannot be called it passes over.
"""

from collections.abc import Callable, Iterator
from typing import Any

from gradguard.moments import AFTER_BACKWARD, BACKWARD_END, BEFORE_OPTIMIZER_STEP

BATCH_START = "on_train_batch_start"

HOOKS = (
    BATCH_START,
    "on_before_zero_grad",
    "on_before_backward",
    AFTER_BACKWARD,
    BEFORE_OPTIMIZER_STEP,
)

_OWNERS = ("gradguard", "lightning", "pytorch_lightning")


def without_idle(
    callback: object, *, before_moment: str | None, announced: bool, batches: bool
) -> Callable[[], None]:
    """Hide from Lightning those hooks of a callback that do nothing; return the undo.

    Args:
        callback: Whose hooks. Those of a user's subclass stay.
        before_moment: When norms before are taken, None if at no hook.
        announced: Whether to hear of updates that a scaler may skip.
        batches: Whether to be shown every batch.
    """
    needed = {
        BATCH_START: batches or before_moment in (AFTER_BACKWARD, BACKWARD_END),
        AFTER_BACKWARD: before_moment == AFTER_BACKWARD,
        BEFORE_OPTIMIZER_STEP: announced or before_moment == BEFORE_OPTIMIZER_STEP,
    }
    hidden = [hook for hook in _ours(callback) if not needed.get(hook, False)]
    vars(callback).update(dict.fromkeys(hidden))

    def undo() -> None:
        for hook in hidden:
            vars(callback).pop(hook, None)

    return undo


def _ours(callback: Any) -> Iterator[str]:
    """Yield the hooks that neither a subclass nor the instance has put in our place."""
    for hook in HOOKS:
        owner = next(cls for cls in type(callback).__mro__ if hook in vars(cls))
        known = owner.__module__.partition(".")[0] in _OWNERS
        if known and hook not in vars(callback):
            yield hook
