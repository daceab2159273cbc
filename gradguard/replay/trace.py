"""The first operation that broke a step, found by following back what reached the end."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from gradguard.replay.advice import operation_advice, tensor_advice
from gradguard.replay.calls import Calls
from gradguard.replay.cause import Cause
from gradguard.replay.cured import NOTHING, Cured
from gradguard.replay.operations import Operations
from gradguard.replay.origins import Beginning, Leaf, Origin, Producer, beginnings
from gradguard.replay.outside import Outside
from gradguard.replay.rerun import Rerun, losses
from gradguard.replay.site import module_paths
from gradguard.replay.values import broken

_MOST = 8  # candidates that are tried, of which each costs a run


def trace(rerun: Rerun, *, loss_scale: float = 1.0) -> Cause | None:
    """Return what broke the step; None if nothing did.

    Only what reaches a loss or a parameter's gradient counts: from there the operations
    are followed back to the first whose inputs were finite, or legal.

    Args:
        rerun: The step.
        loss_scale: That the step multiplies its loss with.
    """
    watch = _Watch(rerun, loss_scale)
    found = beginnings(watch.ends)
    if not found:
        return None
    first = found[0] if len(found) == 1 else _decisive(watch, found)
    if isinstance(first, Leaf):
        return _of_tensor(first)
    return _of_operation(first, loss_scale, at_loss=watch.at_loss)


def _decisive(watch: "_Watch", found: Sequence[Beginning]) -> Beginning:
    """Return the first that breaks the step alone, the others being repaired.

    What breaks elements that are masked out later breaks nothing. Where repairing all
    of them does not help, the first is as good as any.
    """
    tried = found[:_MOST]
    if not watch.heals(tried):
        return found[0]
    for one in tried:
        if not watch.heals([other for other in tried if other is not one]):
            return one
    return found[0]


class _Watch:
    """Run a step, and watch what of it matters at the end.

    Attributes:
        ends: What broke the first broken loss or, before there is one, the gradients of
            the first backward pass that breaks some.
        at_loss: Whether it was a loss.
    """

    def __init__(
        self, rerun: Rerun, loss_scale: float, *, cured: Cured = NOTHING
    ) -> None:
        self.ends: list[Origin] = []
        self.at_loss = False
        self._rerun, self._loss_scale = rerun, loss_scale
        self._calls = Calls(
            module_paths(rerun.module),
            before_backward=lambda losses: self._end(losses, at_loss=True),
            after_backward=lambda: self._end(self._gradients()),
        )
        self._operations = Operations(
            self._calls,
            Outside(rerun.module, rerun.batches),
            loss_scale=loss_scale,
            micro_batch=min(rerun.batches, default=0),
            cured=cured,
        )
        rerun(under=self._modes())
        self._end(losses(rerun.returned), at_loss=True)
        self._end(self._gradients())

    def heals(self, origins: Sequence[Origin]) -> bool:
        """Return whether what broke is finite in a run in which these are repaired."""
        again = _Watch(self._rerun, self._loss_scale, cured=Cured.of(origins))
        return not again.ends or (self.at_loss and not again.at_loss)

    @contextmanager
    def _modes(self) -> Iterator[None]:
        with self._operations, self._calls:
            yield

    def _gradients(self) -> Iterator[Tensor]:
        for parameter in self._rerun.module.parameters():
            if parameter.grad is not None:
                yield parameter.grad

    def _end(self, tensors: Iterable[Tensor], *, at_loss: bool = False) -> None:
        if self.ends:
            return
        with self._operations.resting():
            for tensor in filter(broken, tensors):
                self.ends += self._operations.origins(tensor)
                self.at_loss = at_loss
        if self.at_loss:
            self._operations.stop()  # what gradients are made of a broken loss is no news


def _of_tensor(leaf: Leaf) -> Cause:
    return Cause(
        kind=leaf.kind,
        name=leaf.name,
        direction=None,
        module=leaf.module,
        line=leaf.site.line,
        kernel="",
        inputs=(),
        output=leaf.output,
        hidden_by=None,
        peak=None,
        rows=leaf.rows,
        micro_batch=leaf.micro_batch,
        advice=tensor_advice(leaf.kind),
    )


def _of_operation(producer: Producer, loss_scale: float, *, at_loss: bool) -> Cause:
    # Its value never reached the loss, so that it is the gradient of it that broke.
    direction = producer.direction if at_loss else "backward"
    follows_loss = direction == "backward" or producer.scales
    hidden_by = producer.hidden_by if direction == "backward" else None
    scaled = loss_scale != 1 and follows_loss and _fits(producer, loss_scale)
    return Cause(
        kind="scale" if scaled else "operation",
        name=producer.site.operation,
        direction=direction,
        module=producer.site.module,
        line=producer.site.line,
        kernel=producer.kernel,
        inputs=producer.inputs,
        output=producer.output,
        hidden_by=hidden_by,
        peak=producer.peak,
        rows=(),
        micro_batch=producer.micro_batch,
        advice=operation_advice(
            (producer.site.operation, producer.kernel),
            direction,
            scaled=scaled,
            hidden=hidden_by is not None,
            narrow=producer.output.dtype if producer.peak is not None else None,
        ),
    )


def _fits(producer: Producer, loss_scale: float) -> bool:
    """Whether the output would have been finite without the loss scale."""
    dtype: torch.dtype = getattr(torch, producer.output.dtype)
    peak = math.inf if producer.peak is None else producer.peak
    return peak / loss_scale <= torch.finfo(dtype).max
