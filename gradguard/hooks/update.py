"""*After*: the instant before an optimizer changes its parameters, in every way to step."""

from collections.abc import Callable
from functools import wraps
from types import MethodType
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
        missed: Told once that a step took no notice of its closure, so that its update
            was not seen; the next ones are, as the step is entered.
    """

    def __init__(
        self, act: Callable[[Any], None], missed: Callable[[], None] = lambda: None
    ) -> None:
        self._act = act
        self._missed = missed
        self._depth = 0
        self._acted = False
        self._called = False  # the closure of the step under way
        self._ignores_closure = False

    @property
    def is_running(self) -> bool:
        """Whether a step is under way."""
        return self._depth > 0

    def attach(self, optimizer: Optimizer) -> Callable[[], None]:
        """See the updates of an optimizer from now on; return the way to undo it.

        Args:
            optimizer: Any, also one that never called `Optimizer.__init__`.
        """
        # Of the instance: somebody may have given it a `step` of its own.
        if not getattr(optimizer.step, "hooked", False):
            return _shadow_step(optimizer, self)
        handles = (
            optimizer.register_step_pre_hook(self.enter),
            optimizer.register_step_post_hook(self.leave),
        )

        def undo() -> None:
            for handle in handles:
                handle.remove()

        return undo

    def reset(self) -> None:
        """Forget a step under way: between batches none is, whatever one has raised."""
        self._depth = 0

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
        self._acted = self._called = False
        if closure is None or self._ignores_closure:
            self._now(None)
        if closure is None:
            return None
        if position:
            return (args[0], self._followed(closure), *args[2:]), kwargs
        return args, {**kwargs, "closure": self._followed(closure)}

    def leave(self, *_: object) -> None:
        """Note that a step is over: the hook behind a step."""
        self._depth = max(0, self._depth - 1)  # 0 where a step has raised
        if not (self._depth or self._acted or self._called or self._ignores_closure):
            self._ignores_closure = True
            self._missed()

    def _now(self, result: object) -> None:
        self._acted = True
        try:
            self._act(result)
        except BaseException:
            self._depth = 0  # the post hook will not run
            raise

    def _followed(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        def closure_then_act() -> Any:
            self._called, self._ignores_closure = True, False
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
    given, step = vars(optimizer).get("step"), optimizer.step
    shadowed, observes = ref(optimizer), True

    @wraps(step)  # a scheduler of learning rates has left a mark on it
    def observed_step(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        if self is not shadowed():  # a copy, which has the method of its class
            return type(self).step(self, *args, **kwargs)
        if not observes:  # and yet called, by whoever has wrapped it meanwhile
            return step(*args, **kwargs)
        changed = update.enter(self, (self, *args), kwargs)
        (_, *args_), kwargs = changed or ((self, *args), kwargs)
        try:
            return step(*args_, **kwargs)
        finally:
            update.leave()

    # A method, as schedulers expect and as copies and pickles can be made of.
    vars(optimizer)["step"] = method = MethodType(observed_step, optimizer)

    def undo() -> None:
        nonlocal observes
        observes = False
        found = shadowed()
        if found is not None and vars(found).get("step") == method:
            del vars(found)["step"]
            if given is not None:
                vars(found)["step"] = given

    return undo
