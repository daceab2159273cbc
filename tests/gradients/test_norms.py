"""Norms against a float64 loop, in every dtype and layout a gradient can have."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gradguard.gradients.norms import Gradients, total_norm


def norms_of(*gradients: Tensor) -> list[float]:
    return [float(norm) for norm in Gradients(gradients).norms()]


def exact(gradient: Tensor) -> float:
    return math.sqrt(sum(abs(x) ** 2 for x in gradient.to_dense().flatten().tolist()))


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=12),
    st.integers(0, 2**32),
    st.floats(-30, 30),
)
@settings(max_examples=50, deadline=None)
def test_norms_agree_with_a_float64_loop(
    sizes: list[int], seed: int, exponent: float
) -> None:
    torch.manual_seed(seed)
    gradients = [torch.randn(size) * 10**exponent for size in sizes]

    assert norms_of(*gradients) == pytest.approx(list(map(exact, gradients)), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_norm_of_half_precision_is_summed_in_float32(dtype: torch.dtype) -> None:
    gradient = torch.full((1000, 1000), 100.0, dtype=dtype)

    # A sum of squares in float16 is Inf here, and in bfloat16 it has 8 bits.
    assert norms_of(gradient) == pytest.approx([1000 * 100.0], rel=1e-3)


def test_norm_of_float64_keeps_its_digits() -> None:
    gradient = torch.tensor([1.0, 1e-7], dtype=torch.float64)

    assert norms_of(gradient) == [math.sqrt(1.0 + 1e-14)]


def test_norm_of_sparse_gradient_sums_duplicates_first() -> None:
    gradient = torch.sparse_coo_tensor(
        torch.tensor([[0, 0, 2]]), [1.0, 2.0, 4.0], (3,), check_invariants=True
    )

    assert norms_of(gradient) == [math.sqrt((1 + 2) ** 2 + 4**2)]


def test_norm_of_complex_gradient_counts_both_parts() -> None:
    assert norms_of(torch.tensor([3 + 4j, 12 + 0j])) == [math.sqrt(3**2 + 4**2 + 12**2)]


def test_norms_of_mixed_dtypes_keep_their_order() -> None:
    gradients = [
        torch.tensor([2.0], dtype=torch.float64),
        torch.tensor([3.0]),
        torch.tensor([4.0], dtype=torch.bfloat16),
        torch.tensor([5.0], dtype=torch.float64),
    ]

    assert norms_of(*gradients) == [2.0, 3.0, 4.0, 5.0]


def test_norm_of_an_empty_gradient_is_zero() -> None:
    assert norms_of(torch.zeros(0), torch.ones(1)) == [0.0, 1.0]


def test_norms_of_no_gradients_are_none() -> None:
    assert norms_of() == []


def test_norm_is_finite_when_only_its_float32_squares_overflow() -> None:
    gradient = torch.full((3,), 1e20)

    assert torch.linalg.vector_norm(gradient).isinf()
    assert norms_of(gradient) == pytest.approx([1e20 * math.sqrt(3)], rel=1e-6)


def test_norm_is_not_zero_when_only_its_float32_squares_underflow() -> None:
    gradient = torch.full((4,), 1e-30)

    assert torch.linalg.vector_norm(gradient) == 0
    assert norms_of(gradient) == pytest.approx([2e-30], rel=1e-6)


@pytest.mark.parametrize(
    ("element", "norm"), [(math.inf, math.inf), (-math.inf, math.inf)]
)
def test_norm_of_an_infinite_gradient_is_infinite(element: float, norm: float) -> None:
    assert norms_of(torch.tensor([1.0, element])) == [norm]


def test_norm_of_a_nan_gradient_is_nan() -> None:
    [norm] = norms_of(torch.tensor([math.nan, 1.0]))

    assert math.isnan(norm)


def test_nan_gradient_spares_the_norms_of_the_others() -> None:
    _, norm = norms_of(torch.tensor([math.nan, 1.0]), torch.tensor([3.0, 4.0]))

    assert norm == 5.0


def test_total_norm_is_the_norm_of_all_gradients_end_to_end() -> None:
    assert total_norm(torch.tensor([3.0, 4.0, 12.0])) == math.sqrt(9 + 16 + 144)


def test_total_norm_is_finite_when_only_its_float32_squares_overflow() -> None:
    total = total_norm(torch.tensor([1.5e19, 1.5e19]))

    assert float(total) == pytest.approx(1.5e19 * math.sqrt(2), rel=1e-6)
