"""Norms of many small gradients: those of a plain loop in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gradguard.gradients.flat_norms import quick_norms
from gradguard.gradients.norms import Gradients

MANY = 40  # enough for the small ones to be laid end to end


def looped(gradients: list[Tensor]) -> Tensor:
    return torch.stack([g.double().norm() for g in gradients]).float()


@settings(deadline=None)  # the first call loads kernels
@given(
    st.lists(st.sampled_from([0, 1, 3, 1024, 1025]), min_size=MANY, max_size=3 * MANY)
)
def test_norms_are_those_of_a_loop_whatever_the_sizes(sizes: list[int]) -> None:
    torch.manual_seed(0)
    gradients = [torch.randn(size) for size in sizes]

    torch.testing.assert_close(quick_norms(Gradients(gradients)), looped(gradients))


@pytest.mark.parametrize("scale", [1e-30, 1e20], ids=["underflow", "overflow"])
def test_squares_beyond_float32_are_held(scale: float) -> None:
    gradients = [torch.full((4,), scale) for _ in range(MANY)]

    torch.testing.assert_close(
        quick_norms(Gradients(gradients)), torch.full((MANY,), 2 * scale)
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_element_shows_in_its_own_norm_alone(bad: float) -> None:
    gradients = [torch.ones(4) for _ in range(MANY)]
    gradients[7][2] = bad

    norms = quick_norms(Gradients(gradients))

    assert norms.isfinite().logical_not().nonzero().flatten().tolist() == [7]
    assert torch.equal(norms[7], looped(gradients)[7]) or norms[7].isnan()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.complex64])
def test_other_kinds_are_measured_as_ever(dtype: torch.dtype) -> None:
    gradients = Gradients([torch.ones(4, dtype=dtype) for _ in range(MANY)])

    assert torch.equal(quick_norms(gradients), gradients.norms())


def test_gradients_that_do_not_lie_in_order_are_measured() -> None:
    gradients = [torch.arange(6.0).reshape(2, 3).T for _ in range(MANY)]

    torch.testing.assert_close(
        quick_norms(Gradients(gradients)), torch.full((MANY,), 55.0).sqrt()
    )
