"""One step, run as often as needed, always from the same start."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from gradguard.replay.cause import Outcome

Batches = Mapping[int, Any]
Step = Callable[[Batches], Any]


class Rerun:
    """Run a step again and again from the same weights, buffers and random state.

    Args:
        module: Whose gradients the step takes.
        step: Runs forward and backward of the given batches, keyed by their position in
            the accumulation window, and leaves the gradients in `.grad`; returns the
            loss, or those of all batches, or None. It may be given some of the batches
            only, or parts of them.
        batches: Those of the step.
    """

    def __init__(self, module: nn.Module, step: Step, batches: Batches) -> None:
        self.module = module
        self.step = step
        self.batches = batches

    def __call__(self, batches: Batches | None = None) -> Outcome:
        """Return how the step ends, on these batches or all."""
        raise NotImplementedError
