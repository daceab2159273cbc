"""The two moments at which gradients are looked at, in every way Lightning can train.

*Before*: gradients are complete and nobody has touched them. *After*: the instant before
the optimizer changes the parameters. Lightning has a hook for the first in the plain case
only, and none for the second. No class of Lightning is imported here or patched, so this
holds for `lightning.pytorch` and for `pytorch_lightning`; see `at_clip_call` for the one
method of an object that is shadowed.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

BACKWARD_END = "backward_end"
AFTER_BACKWARD = "on_after_backward"
BEFORE_OPTIMIZER_STEP = "on_before_optimizer_step"

# Where Lightning declares what others may override; a definition elsewhere in a class
# hierarchy is an override.
_DECLARED_IN = {
    f"{root}.{where}"
    for root in ("lightning.pytorch", "pytorch_lightning")
    for where in (
        "core.module",
        "core.hooks",
        "callbacks.callback",
        "plugins.precision.precision",
        "strategies.strategy",
    )
} | {
    f"{root}.plugins.precision.precision"
    for root in ("lightning.fabric", "lightning_fabric")
}


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


def at_backward_end(
    parameters: Iterable[Tensor], act: Callable[[], None]
) -> Callable[[], None]:
    """Call `act` at the end of each backward pass that reaches one of the parameters.

    For manual optimisation that calls `loss.backward()` itself, past Lightning's hook,
    and for callbacks that are given that hook before us. Returns the way to undo it.
    Costs a Python call per parameter and backward pass.
    """
    call_at_end = torch.autograd.Variable._execution_engine.queue_callback
    asked = -1

    def note(_: Tensor) -> None:
        # The first gradient of a pass asks for a call at its end, as DDP does; and there
        # for another, so as to come after DDP's, which waits for the reduction.
        nonlocal asked
        this_pass = torch._C._current_graph_task_id()
        if this_pass != asked:
            asked = this_pass
            call_at_end(lambda: call_at_end(act))

    handles = [
        parameter.register_post_accumulate_grad_hook(note)  # type: ignore[no-untyped-call]
        for parameter in parameters
        if parameter.requires_grad
    ]

    def undo() -> None:
        for handle in handles:
            handle.remove()

    return undo


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


def before_moment(trainer: Any, module: Any, callback: object) -> str:
    """Name the moment of `callback` at which nobody has touched the gradients yet.

    `on_before_optimizer_step`, where gradients are unscaled and reduced, unless someone
    may change them earlier; then `on_after_backward`, unless another callback has that
    hook ahead of it; then the end of the backward pass.
    """
    place = trainer.callbacks.index(callback)
    ahead, behind = trainer.callbacks[:place], trainer.callbacks[place + 1 :]
    if any(overrides(other, AFTER_BACKWARD) for other in ahead):
        return BACKWARD_END
    touched = (
        not module.automatic_optimization
        or overrides(module, "optimizer_step")
        or any(overrides(who, AFTER_BACKWARD) for who in (module, *behind))
        or any(overrides(other, BEFORE_OPTIMIZER_STEP) for other in ahead)
    )
    return AFTER_BACKWARD if touched else BEFORE_OPTIMIZER_STEP


def gradients_complete(trainer: Any, module: Any, batch_idx: int) -> bool:
    """Whether the backward pass just run was the last one before the update."""
    if not module.automatic_optimization:
        return True
    window_full = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
    return window_full or bool(trainer.is_last_batch)


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


def overrides(instance: object, hook: str) -> bool:
    """Whether a module, callback or plugin defines a hook that Lightning declares."""
    if hook in vars(instance):
        return True
    for cls in type(instance).__mro__:
        if hook in vars(cls):
            # Of the function, since a class may have been given another one.
            home = getattr(vars(cls)[hook], "__globals__", {})
            return home.get("__name__", cls.__module__) not in _DECLARED_IN
    return False
