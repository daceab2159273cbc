"""The Trainer's clip from norms that are known: torch's bits, and no guesses."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from gradguard.gradients.norms import Gradients
from gradguard.hooks.takeover import MeasuredGradients, measured


def gradients_of(
    sizes: list[int], seed: int, scale: float, dtype: torch.dtype
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(n, generator=generator, dtype=dtype) for n in sizes]


lists_of_gradients = st.builds(
    gradients_of,
    sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=60),
    seed=st.integers(0, 2**32),
    scale=st.sampled_from([0.0, 1e-25, 1e-12, 1e-3, 1.0, 1e3, 1e12]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)


def by_torch(gradients: list[Tensor], max_norm: float) -> list[Tensor]:
    parameters = [torch.nn.Parameter(torch.zeros_like(g)) for g in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    clip_grad_norm_(parameters, max_norm)
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def exact(gradients: list[Tensor]) -> list[float]:
    return [float(gradient.double().norm()) for gradient in gradients]


def known_to_clip(gradients: list[Tensor]) -> MeasuredGradients:
    held = Gradients(gradients)
    found = measured(held, held.norms())
    assert found is not None
    return found


@settings(max_examples=60, deadline=None)
@given(gradients=lists_of_gradients, max_norm=st.sampled_from([1e-3, 1.0, 1e6, 1e36]))
def test_clip_leaves_the_bits_that_torch_leaves(
    gradients: list[Tensor], max_norm: float
) -> None:
    expected = by_torch(gradients, max_norm)
    clipped = known_to_clip(gradients)

    assert clipped.clip(gradients, max_norm)

    assert all(map(torch.equal, gradients, expected))
    after = clipped.norms(gradients)
    assert after is not None
    # Digits that the clip took from small elements are in the gradients, not in `after`.
    np.testing.assert_allclose(after, exact(gradients), rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize(
    "gradient",
    [
        torch.full((4,), 1e20),
        torch.tensor([1.0, torch.inf]),
        torch.tensor([1.0, torch.nan]),
    ],
    ids=["overflow", "inf", "nan"],
)
def test_clip_of_what_overflows_is_left_to_torch(gradient: Tensor) -> None:
    version = gradient._version

    assert not known_to_clip([gradient]).clip([gradient], 1.0)
    assert gradient._version == version


@pytest.mark.parametrize("max_norm", [0.0, -1.0, float("inf"), float("nan")])
def test_clip_without_a_threshold_is_left_to_torch(max_norm: float) -> None:
    gradients = [torch.ones(2)]

    assert not known_to_clip(gradients).clip(gradients, max_norm)


def inference(values: list[float]) -> Tensor:
    with torch.inference_mode():
        return torch.tensor(values)


@pytest.mark.parametrize(
    "gradient",
    [
        torch.tensor([3.0, 4.0], dtype=torch.bfloat16),
        torch.tensor([3.0, 4.0]).to_sparse(),
        torch.tensor([3.0 + 4.0j]),
        inference([3.0, 4.0]),
        torch.tensor([3.0, 4.0], device="meta"),
    ],
    ids=["half", "sparse", "complex", "inference", "accelerator"],
)
def test_gradients_whose_changes_cannot_be_told_are_measured(gradient: Tensor) -> None:
    assert measured(Gradients([gradient]), torch.ones(1)) is None


@pytest.mark.parametrize(
    "touched",
    [
        lambda g: [g[0].mul_(2), g[1]],
        lambda g: [g[0].clone(), g[1]],
        lambda g: g[:1],
        lambda g: [*g, torch.ones(1)],
        lambda g: g[::-1],
    ],
    ids=["in place", "replaced", "fewer", "more", "in another order"],
)
def test_norms_are_not_known_of_gradients_that_were_touched(
    touched: Callable[[list[Tensor]], list[Tensor]],
) -> None:
    gradients = [torch.ones(2), torch.ones(3)]
    held = known_to_clip(gradients)
    assert held.norms(gradients) is not None

    found = touched(list(gradients))

    assert held.norms(found) is None
    assert not held.clip(found, 1.0)
