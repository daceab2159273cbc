"""Hooks that a fit has no use for, kept from Lightning.

Lightning calls every hook of every callback at every step, whether or not it does
anything: with what that drives out of the caches, 20 us a step for those hidden here.
A hook that cannot be called it passes over.
"""

from collections.abc import Callable, Iterator
from typing import Any

from gradguard.hooks.moment import AFTER_BACKWARD, BEFORE_OPTIMIZER_STEP, overrides

BATCH_END = "on_train_batch_end"

HOOKS = (
    "on_before_zero_grad",
    "on_before_backward",
    AFTER_BACKWARD,
    BEFORE_OPTIMIZER_STEP,
    BATCH_END,
)


def without_idle(callback: object, needed: set[str]) -> Callable[[], None]:
    """Hide from Lightning those of `HOOKS` that do nothing; return the undo.

    Those that a user's subclass or anybody else has put in our place stay.
    """
    hidden = [hook for hook in _ours(callback) if hook not in needed]
    vars(callback).update(dict.fromkeys(hidden))

    def undo() -> None:
        for hook in hidden:
            if vars(callback).get(hook, callback) is None:
                del vars(callback)[hook]

    return undo


def _ours(callback: Any) -> Iterator[str]:
    for hook in HOOKS:
        if hook in vars(callback):
            continue
        defined = getattr(type(callback), hook)
        home = getattr(defined, "__globals__", {}).get("__name__")
        if home == "gradguard.callback" or not overrides(callback, hook):
            yield hook
