"""Which tensors of a state are ruined."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from gradguard.guard.ruin import ruined


def holding(*values: complex, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor([1, *values, 2], dtype=dtype)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([math.nan], "NaN"),
        ([math.inf], "+Inf"),
        ([-math.inf], "-Inf"),
        ([math.nan, -math.inf], "NaN and -Inf"),
    ],
)
@pytest.mark.parametrize(
    "dtype",
    [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64],
)
def test_weights_that_are_not_finite_are_told_with_what_they_hold(
    values: list[float], said: str, dtype: torch.dtype
) -> None:
    state = {"good": holding(dtype=dtype), "bad": holding(*values, dtype=dtype)}

    assert ruined(state.items(), buffers=()) == {"bad": said}


def test_buffers_may_hold_infinity_but_no_nan() -> None:
    state = {"mask": holding(-math.inf), "mean": holding(math.nan)}

    assert ruined(state.items(), buffers=state.keys()) == {"mean": "NaN"}


@pytest.mark.parametrize(
    "entry",
    [
        3,
        "text",
        {"more": 1.0},
        torch.arange(3),
        torch.tensor([True]),
        torch.empty(0),
        torch.empty(2, device="meta"),
    ],
    ids=["number", "text", "mapping", "integers", "flags", "empty", "meta"],
)
def test_what_cannot_be_ruined_is_passed_by(entry: Any) -> None:
    assert ruined([("other", entry)], buffers=()) == {}


def test_sparse_weights_are_looked_into() -> None:
    table = holding(math.nan).to_sparse()

    assert ruined([("table", table)], buffers=()) == {"table": "NaN"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_weights_whose_sum_overflows_are_no_ruin(dtype: torch.dtype) -> None:
    large = torch.full((8,), torch.finfo(dtype).max, dtype=dtype)

    assert ruined([("large", large)], buffers=()) == {}


def test_nothing_is_changed() -> None:
    weight = torch.nn.Parameter(holding(math.nan))

    ruined([("weight", weight)], buffers=())

    assert weight.grad is None
    assert weight.isnan().tolist() == [False, True, False]
