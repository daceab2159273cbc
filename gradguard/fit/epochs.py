"""Weights, gradients and updates of one optimizer: at the start, and epoch by epoch."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from gradguard.gradients.columns import ParameterColumns
from gradguard.gradients.norms import plain
from gradguard.gradients.scaling import scale_at_update
from gradguard.gradients.sharding import Shards, local
from gradguard.records.recording import Epochs

_START = -1  # stands for the epoch that ended when training began


class EpochRows:
    """Measure the run's first update, the last one of each epoch, and none between.

    Rows stay on the device until they are drained; nothing syncs before, except that
    sparse gradients are coalesced.

    Args:
        trainer: A Trainer of either namespace of Lightning, about to train.
        optimizer: Whose update.
        columns: Its parameters, `P`.
        shards: How they are spread over processes.
    """

    def __init__(
        self,
        trainer: Any,
        optimizer: Optimizer,
        columns: ParameterColumns,
        shards: Shards,
    ) -> None:
        self._trainer = trainer
        self._optimizer = optimizer
        self._columns = columns
        self._shards = shards
        self._is_first = trainer.global_step == 0
        self._pending: _Update | None = None
        self._last: Tensor | None = None
        self._rows: list[tuple[int, Tensor]] = []

    @torch.no_grad()
    def see_update(self) -> None:
        """Measure the update that is about to happen, if it is one of those to keep."""
        self.see_updated()
        is_first, self._is_first = self._is_first, False
        is_last = self._may_be_last()
        if is_first or is_last:
            weights = [weight.clone() for weight in self._weights()]
            self._pending = _Update(self._gradients(), weights, is_first, is_last)

    @torch.no_grad()
    def see_updated(self) -> None:
        """Compare the weights with what they were before the update measured last."""
        update, self._pending = self._pending, None
        if update is None:
            return
        ratio = _change(update.weights, self._weights(), self._shards)
        measured = torch.cat([update.gradients, ratio])
        if update.is_first:
            before = spread(update.weights, self._shards)[:2]
            self._rows.append((_START, torch.cat([before, measured])))
        if update.is_last:
            self._last = measured

    @torch.no_grad()
    def see_epoch_end(self) -> None:
        """Keep the weights as they are now, and what is known of the last update."""
        weights = spread(self._weights(), self._shards)[:2]
        last, self._last = self._last, None
        if last is None:  # the epoch was cut short, or the update skipped
            last = weights.new_full((4, weights.shape[1]), torch.nan)
        self._rows.append((self._trainer.current_epoch, torch.cat([weights, last])))

    def drain(self) -> Epochs | None:
        """Take out every row kept so far, in one copy; None if there is none."""
        if not self._rows:
            return None
        epochs, rows = zip(*self._rows, strict=True)
        self._rows = []
        values = torch.stack(rows).float().cpu().numpy()[:, :, self._columns.order]
        return Epochs(
            self._columns.names,
            np.array(epochs, dtype=np.int64),
            np.ascontiguousarray(np.moveaxis(values, 1, 2)),
        )

    def _may_be_last(self) -> bool:
        """Whether the epoch may end without another update of this optimizer."""
        trainer = self._trainer
        # In manual optimisation, each optimizer's updates count as steps.
        completed = trainer.global_step + len(trainer.optimizers)
        return bool(trainer.is_last_batch or 0 <= trainer.max_steps <= completed)

    def _weights(self) -> list[Tensor]:
        return [plain(local(p.detach())) for p in self._columns.parameters]

    def _gradients(self) -> Tensor:
        """Return mean, deviation and mean absolute value of each gradient, `[3, P]`.

        NaN where there is none, and where the update is going to skip itself.
        """
        statistics = spread(
            [_gradient(p) for p in self._columns.parameters], self._shards
        )
        scale = scale_at_update(self._optimizer)
        if scale is not None:
            statistics = statistics / scale.to(statistics)
        found_inf: Tensor | None = getattr(self._optimizer, "found_inf", None)
        if found_inf is not None:
            skipped = found_inf.to(statistics.device) > 0
            statistics = torch.where(skipped, torch.nan, statistics)
        return statistics


class _Update(NamedTuple):
    """An update as it was about to happen: gradients `[3, P]`, and a copy of weights."""

    gradients: Tensor
    weights: list[Tensor]
    is_first: bool
    is_last: bool


def spread(tensors: Sequence[Tensor], shards: Shards) -> Tensor:
    """Return mean, sqrt(mean (x - mean)^2) and mean |x| of each tensor, `[3, P]`.

    In float64 where the device has it, for the squares of a vanishing gradient are zero
    in float32; that takes room for one tensor at a time. NaN of a tensor without
    elements.

    Args:
        tensors: Dense and real, `P`; what this process holds of each.
        shards: How the whole is spread over processes.
    """
    device = tensors[0].device
    parts = torch.stack([_part(tensor).to(device) for tensor in tensors], dim=1)
    count, mean, variance, mean_abs = parts
    total, *sums = shards.add(torch.stack([count, count * mean, count * mean_abs]))
    whole, whole_abs = (added / total for added in sums)
    # Through the variance of each part, so that constant weights have exactly none.
    squares = shards.add(count * (variance + (mean - whole).square()))
    return torch.stack([whole, (squares / total).sqrt(), whole_abs])


def _part(tensor: Tensor) -> Tensor:
    """Return number, mean, variance and mean absolute value of the elements, `[4]`."""
    elements = _wide(tensor)
    size = elements.numel()
    if not size:
        return elements.new_zeros(4)
    variance, mean = torch.var_mean(elements, correction=0)
    mean_abs = torch.linalg.vector_norm(elements, 1) / size
    return torch.stack([mean.new_full((), size), mean, variance, mean_abs])


def _change(old: Sequence[Tensor], new: Sequence[Tensor], shards: Shards) -> Tensor:
    """Return ||new - old|| / ||old|| of each tensor, `[1, P]`."""
    device = old[0].device
    squares = [
        torch.stack([(_wide(b) - _wide(a)).square().sum(), _wide(a).square().sum()])
        for a, b in zip(old, new, strict=True)
    ]
    sums = shards.add(torch.stack([both.to(device) for both in squares], dim=1))
    return (sums[:1] / sums[1:]).sqrt()


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.device.type == "mps" else tensor.double()


def _gradient(parameter: Tensor) -> Tensor:
    """Return this process's part of a gradient, with the zeros a sparse one leaves out."""
    if parameter.grad is None:
        return local(parameter).new_empty(0)
    return plain(local(parameter.grad).to_dense())
