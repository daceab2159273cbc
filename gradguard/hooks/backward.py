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


def gradients_complete(trainer: Any, module: Any, batch_idx: int) -> bool:
    """Whether the backward pass just run was the last one before the update."""
    if not module.automatic_optimization:
        return True
    window_full = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
    return window_full or bool(trainer.is_last_batch)


def in_backward() -> bool:
    """Whether a backward pass is under way in this thread."""
    return torch._C._current_graph_task_id() != -1
