"""One step, run as often as needed, always from the same start."""

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from gradguard.gradients.norms import plain
from gradguard.gradients.sharding import local
from gradguard.guard.random_state import random_state, set_random_state
from gradguard.replay.batch import tensors
from gradguard.replay.cause import Outcome

Batches = Mapping[int, Any]
Step = Callable[[Batches], Any]


class Rerun:
    """Run a step again and again from the same weights, buffers and random state.

    Compiled modules run eagerly.

    Args:
        module: Whose gradients the step takes.
        step: Runs forward and backward of the given batches, keyed by their position in
            the accumulation window, and leaves the gradients in `.grad`; returns the
            loss, or those of all batches, or None. It may be given some of the batches
            only, or parts of them, and scales their losses as in the whole window.
        batches: Those of the step.
        wide: What the step runs in where it is to be run in a wider dtype than its own,
            such as to turn off what scales the loss; None needs nothing.

    Attributes:
        runs: How many times the step was run so far.
        progress: Called after each run.
        returned: What the step returned last.
    """

    def __init__(
        self,
        module: nn.Module,
        step: Step,
        batches: Batches,
        *,
        wide: Callable[[torch.dtype], AbstractContextManager[Any]] | None = None,
    ) -> None:
        self.module = module
        self.batches = batches
        self.runs = 0
        self.progress: Callable[[], None] | None = None
        self.returned: Any = None
        self._step = step
        self._wide = wide
        self._tensors = [*module.parameters(), *module.buffers()]
        self._saved = [tensor.detach().clone() for tensor in self._tensors]
        self._inputs = [
            _Input(tensor) for batch in batches.values() for _, tensor in tensors(batch)
        ]
        self._random_state = random_state()

    def __call__(
        self,
        batches: Batches | None = None,
        *,
        under: AbstractContextManager[Any] | None = None,
        dtype: torch.dtype | None = None,
    ) -> Outcome:
        """Return how the step ends.

        Args:
            batches: All of them unless given.
            under: What the step runs in, such as a mode that watches it.
            dtype: What narrower weights and buffers are widened to; None widens none.
        """
        self.restore(dtype)
        self.runs += 1
        self.returned = None
        wide = self._wide(dtype) if self._wide and dtype else nullcontext()
        with torch.compiler.set_stance("force_eager"), wide, under or nullcontext():
            self.returned = self._step(self.batches if batches is None else batches)
        if self.progress:
            self.progress()
        return self._outcome()

    def restore(self, dtype: torch.dtype | None = None) -> None:
        """Put weights, buffers and random state back, and take gradients away.

        A batch that the step changes in place is put back as well.
        """
        with torch.no_grad():
            for given in self._inputs:
                given.restore()
            for tensor, saved in zip(self._tensors, self._saved, strict=True):
                wanted = _wider(saved, dtype)
                if tensor.dtype == wanted:
                    tensor.copy_(saved)
                else:
                    tensor.data = saved.to(wanted, copy=True)
                tensor.grad = None
        set_random_state(self._random_state)

    def _outcome(self) -> Outcome:
        norms = {
            name: float(plain(local(parameter.grad)).double().norm())
            for name, parameter in self.module.named_parameters()
            if parameter.grad is not None
        }
        return Outcome(
            losses=tuple(float(loss.detach()) for loss in losses(self.returned)),
            norms_before=norms,
            nonfinite=tuple(n for n, norm in norms.items() if not math.isfinite(norm)),
        )


class _Input:
    """A tensor of a batch, which is written to only if the step did so."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._saved = tensor.detach().clone()
        self._version = tensor._version

    def restore(self) -> None:
        """Put its numbers back."""
        if self._tensor._version != self._version:
            self._tensor.copy_(self._saved)
            self._version = self._tensor._version


def _wider(tensor: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    narrow = dtype and tensor.is_floating_point() and tensor.itemsize < dtype.itemsize
    return dtype if dtype and narrow else tensor.dtype


def losses(returned: Any) -> list[Tensor]:
    """Return the losses among what a step returned."""
    found = returned if isinstance(returned, Iterable) else [returned]
    if isinstance(returned, Tensor):
        found = [returned]
    return [loss for loss in found if isinstance(loss, Tensor)]


def is_broken(outcome: Outcome) -> bool:
    """Return whether a loss or a gradient is NaN or Inf."""
    return bool(outcome.nonfinite) or not all(map(math.isfinite, outcome.losses))
