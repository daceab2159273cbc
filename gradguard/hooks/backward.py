"""The end of a backward pass, also of one that Lightning has no hook for."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


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


class PassEnds:
    """Call `act` at the end of backward passes, as long as there is reason to.

    All passes are listened to in the first batch, and later ones if any was run past
    Lightning, by `loss.backward()`; else they are left alone, for they cost.

    Args:
        parameters: Gives what passes are to reach.
        act: What to do.
        always: Whether there is reason to without such a pass.
    """

    def __init__(
        self,
        parameters: Callable[[], Iterable[Tensor]],
        act: Callable[[], None],
        *,
        always: bool,
    ) -> None:
        self._parameters = parameters
        self._act = act
        self._untold = False
        self._needed = always
        self._undo: Callable[[], None] | None = None
        self.listen()

    def listen(self) -> None:
        """Listen, if that is not done already."""
        if self._undo is None:
            self._undo = at_backward_end(self._parameters(), self._note)

    def on_epoch_start(self) -> None:
        """Listen to parameters that are trained from now on, too."""
        if self._undo:
            self.close()
            self.listen()

    def on_after_backward(self) -> None:
        """Note that Lightning has run the pass that ended last."""
        self._untold = False

    def on_batch_end(self, *, missed: bool) -> None:
        """Go on to listen only if there is reason to.

        Args:
            missed: Whether an update had no pass ahead of it that was seen.
        """
        self._needed |= self._untold or missed
        self._untold = False
        if self._needed:
            self.listen()
        else:
            self.close()

    def close(self) -> None:
        """Listen no more."""
        if self._undo:
            self._undo()
        self._undo = None

    def _note(self) -> None:
        self._needed |= self._untold
        self._untold = True
        self._act()


def gradients_complete(trainer: Any, module: Any, batch_idx: int) -> bool:
    """Whether the backward pass just run was the last one before the update."""
    if not module.automatic_optimization:
        return True
    window_full = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
    return window_full or bool(trainer.is_last_batch)


def in_backward() -> bool:
    """Whether a backward pass is under way in this thread."""
    return torch._C._current_graph_task_id() != -1
