"""*After*: the instant before an optimizer changes its parameters, in every way to step."""

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer


def at_update(optimizer: Optimizer, act: Callable[[Any], None]) -> Callable[[], None]:
    """Call `act` the instant before each parameter update; return the way to undo it.

    Lightning hands `Optimizer.step` a closure that runs everything: forward, backward,
    hooks and clipping. The public step hook of torch may replace that closure, so it
    puts `act` behind it. Under a gradient scaler there is no closure and the hook itself
    fires at the right instant, or not at all when the scaler skips the step.

    Args:
        optimizer: Any optimizer, also one that never called `Optimizer.__init__`.
        act: Sees final gradients and parameters that are not updated yet; for
            optimizers that evaluate several times per step (LBFGS), once each. Given
            what the closure returned, the loss; None where there was no closure.
    """
    update = _Update(act)
    if not getattr(type(optimizer).step, "hooked", False):
        return _shadow_step(optimizer, update)
    handles = (
        optimizer.register_step_pre_hook(update.enter),
        optimizer.register_step_post_hook(update.leave),
    )

    def undo() -> None:
        for handle in handles:
            handle.remove()

    return undo


class _Update:
    """The two hooks around one optimizer's step."""

    def __init__(self, act: Callable[[Any], None]) -> None:
        self._act = act
        # A subclass whose step() calls super().step() fires the hooks twice.
        self._depth = 0

    def enter(
        self, _: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        self._depth += 1
        if self._depth > 1:
            return None
        position = 1 if len(args) > 1 else None
        closure = args[1] if position else kwargs.get("closure")
        if closure is None:
            self._act(None)
            return None
        if position:
            return (args[0], self._followed(closure), *args[2:]), kwargs
        return args, {**kwargs, "closure": self._followed(closure)}

    def leave(self, *_: object) -> None:
        self._depth -= 1

    def _followed(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        def closure_then_act() -> Any:
            try:
                result = closure()
            except BaseException:
                self._depth = 0  # the post hook will not run
                raise
            self._act(result)
            return result

        return closure_then_act


def _shadow_step(optimizer: Optimizer, update: _Update) -> Callable[[], None]:
    """Do as the hooks do for an optimizer torch has not hooked: wrap its `step`."""
    step = optimizer.step

    def observed_step(*args: Any, **kwargs: Any) -> Any:
        changed = update.enter(optimizer, (optimizer, *args), kwargs)
        (_, *args_), kwargs = changed or ((optimizer, *args), kwargs)
        try:
            return step(*args_, **kwargs)
        finally:
            update.leave()

    vars(optimizer)["step"] = observed_step
    return lambda: vars(optimizer).pop("step")
