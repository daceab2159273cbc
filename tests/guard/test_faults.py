"""In every mode of docs/modes.md, a skipped step is one that has never been.

A run with bad batches among the others must end in the weights of a run without them, to
the bit. Where a gradient scaler takes part it skips by itself (`test_nonfinite.py`).
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gradguard import Spike
from gradguard.tensorboard.reader import read_optimizers
from tests.support.modes import OBSERVED, OWN, Row
from tests.support.trainers import same_weights

# Their modules go by the number of the batch, which a bad one before it changes.
COUNTS_BATCHES = {"no_loss", "no_loss_in_window", "own_no_loss"}

ROWS = [
    row
    for row in [*OBSERVED, *OWN]
    if row.scale is None and row.name not in COUNTS_BATCHES
]

# A spike is none of a scaler's affairs, as long as it does not skip steps of its own.
# Evaluations of LBFGS within a step lie orders of magnitude apart by nature.
SPIKE_ROWS = [
    row
    for row in [*OBSERVED, *OWN]
    if not (row.skips or "no_loss" in row.name or "lbfgs" in row.name)
]


def trained(
    path: Path,
    row: Row,
    batches: Callable[[], list[Tensor]],
    prepare: Callable[[Any], None] = lambda _: None,
    **options: Any,
) -> Any:
    model = row.make()
    model.batches = batches
    prepare(model)
    make: Any = row.guard  # GradGuard, or a partial of it
    options = options or {"on_nonfinite": "skip", "max_consecutive_skips": 100}
    guard = partial(make, **options)
    replace(row, guard=guard).trainer(path).fit(model)
    return model


@pytest.mark.filterwarnings("ignore:update skipped:UserWarning")
@pytest.mark.filterwarnings(
    # Dynamo looks at the gradient of whatever it is given.
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning:torch._"
)
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_skipped_step_has_never_been(tmp_path: Path, row: Row, value: float) -> None:
    healthy = row.make().batches()
    window = 3 if "accumulation" in row.name else 1
    bad = [torch.full_like(healthy[0], value)] * window

    skipping = trained(
        tmp_path / "bad", row, lambda: [*healthy[:3], *bad, *healthy[3:]]
    )
    without = trained(tmp_path / "healthy", row, lambda: healthy)

    assert same_weights(skipping, without)
    runs = read_optimizers(tmp_path / "bad" / "run").values()
    assert all(run.refused.any() for run in runs)


# The row that clips scaled gradients is told so.
@pytest.mark.filterwarnings("ignore:clip_gradients.*multiplied by the loss scale")
@pytest.mark.filterwarnings("ignore:update skipped:UserWarning")
@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning:torch._"
)
@pytest.mark.parametrize("row", SPIKE_ROWS, ids=lambda row: row.name)
def test_spike_has_never_been(tmp_path: Path, row: Row) -> None:
    healthy = row.make().batches() * 6
    window = 3 if "accumulation" in row.name else 1
    first = len(healthy) // 2 // window * window
    planted = range(first, first + window)
    guard: Any = {"on_spike": Spike(window=8), "max_consecutive_skips": 100}

    def spiking(model: Any) -> None:
        times_at(planted, model, 1e5, in_loss="tensor_hook" in row.name)

    skipping = trained(
        tmp_path / "bad",
        row,
        lambda: [*healthy[:first], *healthy[:window], *healthy[first:]],
        spiking,
        **guard,
    )
    without = trained(tmp_path / "healthy", row, lambda: healthy, **guard)

    assert same_weights(skipping, without)
    for run in read_optimizers(tmp_path / "healthy" / "run").values():
        assert not run.refused.any()
    for run in read_optimizers(tmp_path / "bad" / "run").values():
        assert run.refused.any()
        assert np.isfinite(run.total_before).all()


def times_at(
    planted: range, model: Any, factor: float, *, in_loss: bool = False
) -> None:
    """Multiply gradients by a factor at some batches: behind all hooks, or by the loss."""

    def planting() -> bool:
        return model.trainer.fit_loop.epoch_loop.batch_idx in planted

    def scale(parameter: Any) -> None:
        if planting():
            parameter.grad.mul_(factor)

    if in_loss:
        loss = model.loss
        model.loss = lambda batch: loss(batch) * (factor if planting() else 1)
        return
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(scale)


HUGE, TINY = 1e30, 1e-40


@pytest.mark.filterwarnings("ignore:update skipped:UserWarning")
@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning:torch._"
)
@pytest.mark.parametrize("factor", [HUGE, TINY])
@pytest.mark.parametrize(
    "row",
    # What is scaled here lies behind the tensor hooks, ahead of which *before* is taken.
    [row for row in ROWS if "tensor_hook" not in row.name],
    ids=lambda row: row.name,
)
def test_finite_gradient_of_any_size_is_not_skipped(
    tmp_path: Path, row: Row, factor: float
) -> None:
    batches = row.make().batches()[:4]

    last = range(len(batches) - 1, len(batches))
    trained(tmp_path, row, lambda: batches, lambda model: times_at(last, model, factor))

    for run in read_optimizers(tmp_path / "run").values():
        assert not run.refused[~run.nonfinite].any()
        smallest, largest = run.total_before.min(), run.total_before.max()
        assert largest > HUGE / 1e6 if factor == HUGE else smallest < TINY * 1e6
