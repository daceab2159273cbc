"""*After*: the instant before an optimizer changes its parameters, in every way to step."""

from collections.abc import Callable
from typing import Any
from weakref import ref

from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook


class Update:
    """Call `act` the instant before each parameter update of the optimizers attached to.

    Lightning hands `Optimizer.step` a closure that runs everything: forward, backward,
    hooks and clipping. The public step hook of torch may replace that closure, so it
    puts `act` behind it. Under a gradient scaler there is no closure and the hook itself
    fires at the right instant, or not at all when the scaler skips the step.

    Optimizers that update the same parameters, as a wrapper and the one inside it, are
    attached to by one `Update`: a step within a step is one update.

    Args:
        act: Sees final gradients and parameters that are not updated yet; for
            optimizers that evaluate several times per step (LBFGS), once each. Given
            what the closure returned, the loss; None where there was no closure.
    """

    def __init__(self, act: Callable[[Any], None]) -> None:
        self._act = act
        self._depth = 0
        self._acted = False

    @property
    def is_running(self) -> bool:
        """Whether a step is under way."""
        return self._depth > 0

    def attach(self, optimizer: Optimizer) -> Callable[[], None]:
        """See the updates of an optimizer from now on; return the way to undo it.

        Args:
            optimizer: Any, also one that never called `Optimizer.__init__`.
        """
        if not getattr(type(optimizer).step, "hooked", False):
            return _shadow_step(optimizer, self)
        handles = (
            optimizer.register_step_pre_hook(self.enter),
            optimizer.register_step_post_hook(self.leave),
        )

        def undo() -> None:
            for handle in handles:
                handle.remove()

        return undo

    def enter(
        self, _: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Act now, or behind the closure if there is one: the hook before a step."""
        self._depth += 1
        position = 1 if len(args) > 1 else None
        closure = args[1] if position else kwargs.get("closure")
        if self._depth > 1:
            # The same closure is handed on by a subclass that calls super().step(). An
            # inner optimizer has none: this is the update, if nothing acted before.
            if closure is None and not self._acted:
                self._now(None)
            return None
        self._acted = False
        if closure is None:
            self._now(None)
            return None
        if position:
            return (args[0], self._followed(closure), *args[2:]), kwargs
        return args, {**kwargs, "closure": self._followed(closure)}

    def leave(self, *_: object) -> None:
        """Note that a step is over: the hook behind a step."""
        self._depth = max(0, self._depth - 1)  # 0 where a step has raised

    def _now(self, result: object) -> None:
        self._acted = True
        try:
            self._act(result)
        except BaseException:
            self._depth = 0  # the post hook will not run
            raise

    def _followed(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        def closure_then_act() -> Any:
            try:
                result = closure()
            except BaseException:
                self._depth = 0  # the post hook will not run
                raise
            self._now(result)
            return result

        return closure_then_act


def at_any_step(act: Callable[[Optimizer], None]) -> Callable[[], None]:
    """Call `act` before each step of any torch optimizer of the process; return the undo.

    Ahead of the optimizer's own hooks: what `act` attaches to it sees that step already.
    """
    handle = register_optimizer_step_pre_hook(lambda optimizer, *_: act(optimizer))
    return handle.remove


def _shadow_step(optimizer: Optimizer, update: Update) -> Callable[[], None]:
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
    shadowed = ref(optimizer)

    def undo() -> None:
        if (found := shadowed()) is not None:
            vars(found).pop("step", None)

    return undo
