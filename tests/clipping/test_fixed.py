"""Clipping against torch's own functions, the documents' numbers, and invariants."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gradguard.clipping.fixed import ClipNorm, ClipValue
from gradguard.clipping.policy import Policy, in_order, in_words
from gradguard.gradients.norms import Gradients
from tests.support.clips import apply

POLICIES: list[list[Policy]] = [
    [ClipNorm(1.0)],
    [ClipNorm(1.0, per_parameter=True)],
    [ClipNorm(1.0, norm_type=math.inf)],
    [ClipValue(0.5)],
    [ClipNorm(1.0), ClipValue(0.1)],
    [ClipValue(0.5), ClipNorm(1.0)],
]

gradient_lists = st.builds(
    lambda sizes, seed, scale: [
        scale * torch.randn(size, generator=torch.Generator().manual_seed(seed + size))
        for size in sizes
    ],
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    seed=st.integers(0, 2**32),
    scale=st.sampled_from([0.0, 1e-12, 1e-3, 1.0, 1e3, 1e18, 1e25]),
)
any_policies = pytest.mark.parametrize("policies", POLICIES, ids=in_words)
examples = settings(max_examples=40, deadline=None)


def clip(policies: list[Policy], gradients: list[Tensor]) -> tuple[Tensor, Tensor]:
    return apply(policies, Gradients(gradients), {})


def parameters_with(gradients: list[Tensor]) -> list[torch.nn.Parameter]:
    parameters = [torch.nn.Parameter(torch.zeros_like(g)) for g in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    return parameters


def test_clip_norm_gives_the_numbers_of_the_clipping_tutorial() -> None:
    gradient = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])

    before, after = clip([ClipNorm(3.0)], [gradient])

    assert before.tolist() == pytest.approx([math.sqrt(55)])
    assert before.tolist() == pytest.approx([7.4162], abs=1e-4)
    assert after.tolist() == pytest.approx([2.9999995], abs=1e-7)
    expected = [0.404520, 0.809040, 1.213560, 1.618079, 2.022599]
    assert gradient.tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("max_norm", [0.1, 1.0, 30.0, 1e6])
def test_clip_norm_is_bit_identical_to_torch(max_norm: float) -> None:
    torch.manual_seed(0)
    gradients = [torch.randn(n, 7) for n in (1, 50, 3, 200)]
    theirs = parameters_with(gradients)

    clip([ClipNorm(max_norm)], gradients)
    torch.nn.utils.clip_grad_norm_(theirs, max_norm)

    for ours, other in zip(gradients, theirs, strict=True):
        assert torch.equal(ours, other.grad)  # type: ignore[arg-type] # set above


@pytest.mark.parametrize("max_norm", [0.1, 1.0, 3.0, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_clip_by_largest_element_is_bit_identical_to_torch(
    max_norm: float, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    gradients = [torch.randn(n, 7, dtype=dtype) for n in (1, 50, 3, 200)]
    theirs = parameters_with(gradients)

    _, after = clip([ClipNorm(max_norm, norm_type=math.inf)], gradients)
    torch.nn.utils.clip_grad_norm_(theirs, max_norm, norm_type=math.inf)

    for ours, other in zip(gradients, theirs, strict=True):
        assert torch.equal(ours, other.grad)  # type: ignore[arg-type] # set above
    assert after.tolist() == pytest.approx([float(g.norm()) for g in gradients])


def test_largest_element_of_each_parameter_is_clipped_by_itself() -> None:
    gradients = [torch.tensor([3.0, -4.0]), torch.tensor([0.5]), torch.zeros(0)]

    clip([ClipNorm(2.0, per_parameter=True, norm_type=math.inf)], gradients)

    assert gradients[0].tolist() == pytest.approx([1.5, -2.0])
    assert gradients[1].tolist() == [0.5]


def test_clip_by_largest_element_reaches_half_precision() -> None:
    gradients = [torch.full((3,), 8.0).bfloat16(), torch.full((2,), 16.0)]

    _, after = clip([ClipNorm(4.0, norm_type=math.inf)], gradients)

    assert gradients[0].tolist() == [2.0] * 3
    assert after.tolist() == pytest.approx([2 * math.sqrt(3), 4 * math.sqrt(2)])


def test_clip_by_largest_element_refuses_shards() -> None:
    shards = Gradients([torch.ones(2)], whole=lambda norms: norms)

    with pytest.raises(NotImplementedError, match="needs whole gradients"):
        apply([ClipNorm(1.0, norm_type=math.inf)], shards, {})


def test_other_norms_are_refused() -> None:
    with pytest.raises(ValueError, match=r"norm_type must be 2 or inf, got 1"):
        ClipNorm(1.0, norm_type=1)


@pytest.mark.parametrize("clip_value", [0.01, 1.0, 3.0, 100.0])
def test_clip_value_is_bit_identical_to_torch(clip_value: float) -> None:
    torch.manual_seed(0)
    gradients = [torch.randn(n, 7) for n in (1, 50, 3, 200)]
    theirs = parameters_with(gradients)

    clip([ClipValue(clip_value)], gradients)
    torch.nn.utils.clip_grad_value_(theirs, clip_value)

    for ours, other in zip(gradients, theirs, strict=True):
        assert torch.equal(ours, other.grad)  # type: ignore[arg-type] # set above


def test_clip_norm_takes_one_norm_over_all_parameters() -> None:
    gradients = [torch.tensor([3.0, 4.0]), torch.tensor([12.0])]

    before, _ = clip([ClipNorm(1.0)], gradients)

    assert before.tolist() == [5.0, 12.0]
    assert gradients[0].tolist() == pytest.approx([3 / 13, 4 / 13])
    assert gradients[1].tolist() == pytest.approx([12 / 13])


def test_clip_norm_per_parameter_takes_one_norm_each() -> None:
    gradients = [torch.tensor([3.0, 4.0]), torch.tensor([12.0]), torch.tensor([0.5])]

    _, after = clip([ClipNorm(1.0, per_parameter=True)], gradients)

    assert gradients[0].tolist() == pytest.approx([3 / 5, 4 / 5])
    assert after.tolist() == pytest.approx([1.0, 1.0, 0.5])


def test_policies_apply_in_the_order_given() -> None:
    norm_first = [torch.tensor([3.0, 4.0])]
    value_first = [torch.tensor([3.0, 4.0])]

    clip([ClipNorm(1.0), ClipValue(0.7)], norm_first)
    clip([ClipValue(0.7), ClipNorm(1.0)], value_first)

    assert norm_first[0].tolist() == pytest.approx([3 / 5, 0.7])
    assert value_first[0].tolist() == pytest.approx([0.7, 0.7])


def test_clip_norm_shrinks_a_finite_gradient_whose_float32_norm_overflows() -> None:
    gradient = torch.full((3,), 1e20)
    (theirs,) = parameters_with([gradient])

    torch.nn.utils.clip_grad_norm_([theirs], 3.0)
    _, after = clip([ClipNorm(3.0)], [gradient])

    assert theirs.grad.tolist() == [0.0, 0.0, 0.0]  # type: ignore[union-attr] # set above
    assert gradient.tolist() == pytest.approx([math.sqrt(3)] * 3)
    assert after.tolist() == pytest.approx([3.0])


@pytest.mark.parametrize(
    ("policy", "element", "expected"),
    [
        (ClipNorm(3.0), math.inf, [0.0, math.nan, 0.0]),
        (ClipNorm(3.0), math.nan, [math.nan] * 3),
        (ClipValue(3.0), math.inf, [1.0, 3.0, 2.0]),
        (ClipValue(3.0), math.nan, [1.0, math.nan, 2.0]),
    ],
)
def test_clipping_treats_non_finite_elements_as_torch_does(
    policy: Policy, element: float, expected: list[float]
) -> None:
    gradient = torch.tensor([1.0, element, 2.0])

    _, after = clip([policy], [gradient])

    assert gradient.tolist() == pytest.approx(expected, nan_ok=True)
    assert math.isfinite(after) == all(map(math.isfinite, expected))


def test_after_is_measured_where_half_precision_rounds_it() -> None:
    gradient = torch.randn(1000, generator=torch.Generator().manual_seed(0)).bfloat16()

    _, after = clip([ClipNorm(1.0)], [gradient])

    assert float(after) == pytest.approx(float(gradient.double().norm()), rel=1e-6)


def test_clipping_reaches_sparse_complex_and_mixed_gradients() -> None:
    sparse = torch.sparse_coo_tensor(
        torch.tensor([[0, 2]]), [3.0, 4.0], (3,), check_invariants=True
    ).coalesce()
    gradients = [
        sparse,
        torch.tensor([12j, 0j]),
        torch.tensor([84.0], dtype=torch.float64),
    ]

    before, after = clip([ClipNorm(1.0)], gradients)

    assert before.tolist() == [5.0, 12.0, 84.0]
    assert after.tolist() == pytest.approx([5 / 85, 12 / 85, 84 / 85])
    assert sparse.to_dense().tolist() == pytest.approx([3 / 85, 0, 4 / 85])
    assert gradients[1].tolist() == pytest.approx([12j / 85, 0j])


@any_policies
@given(gradients=gradient_lists)
@examples
def test_clipping_reports_the_norms_there_are(
    policies: list[Policy], gradients: list[Tensor]
) -> None:
    expected_before = [float(g.double().norm()) for g in gradients]

    before, after = clip(policies, gradients)

    assert before.tolist() == pytest.approx(expected_before, rel=1e-5)
    expected_after = [float(g.double().norm()) for g in gradients]
    assert after.tolist() == pytest.approx(expected_after, rel=1e-5)


@any_policies
@given(gradients=gradient_lists)
@examples
def test_clipping_never_enlarges_an_element_nor_flips_its_sign(
    policies: list[Policy], gradients: list[Tensor]
) -> None:
    originals = [g.clone() for g in gradients]

    clip(policies, gradients)

    for clipped, original in zip(gradients, originals, strict=True):
        assert (clipped.abs() <= original.abs()).all()
        assert (clipped * original.sign() >= 0).all()


@any_policies
@given(gradients=gradient_lists)
@examples
def test_clipping_twice_changes_nothing_more(
    policies: list[Policy], gradients: list[Tensor]
) -> None:
    clip(policies, gradients)
    once = [g.clone() for g in gradients]

    clip(policies, gradients)

    for twice, first in zip(gradients, once, strict=True):
        torch.testing.assert_close(twice, first, rtol=2e-6, atol=0)


@given(gradients=gradient_lists)
@examples
def test_clip_norm_leaves_at_most_max_norm_in_the_same_direction(
    gradients: list[Tensor],
) -> None:
    originals = torch.cat(gradients).double()

    clip([ClipNorm(1.0)], gradients)

    clipped = torch.cat(gradients).double()
    assert clipped.norm() <= 1.0001
    length = originals.norm()
    if length > 0:
        torch.testing.assert_close(
            clipped, originals * (clipped.norm() / length), rtol=1e-4, atol=1e-12
        )


@given(gradients=gradient_lists, seed=st.integers(0, 99))
@examples
def test_clip_norm_does_not_depend_on_the_order_of_parameters(
    gradients: list[Tensor], seed: int
) -> None:
    order = torch.randperm(
        len(gradients), generator=torch.Generator().manual_seed(seed)
    )
    permuted = [gradients[i].clone() for i in order]

    clip([ClipNorm(1.0)], gradients)
    clip([ClipNorm(1.0)], permuted)

    for place, original in enumerate(order):
        torch.testing.assert_close(
            permuted[place], gradients[original], rtol=2e-6, atol=0
        )


@any_policies
def test_a_gradient_below_every_threshold_is_left_alone(policies: list[Policy]) -> None:
    gradient = torch.tensor([0.03, 0.04])

    before, after = clip(policies, [gradient])

    assert gradient.tolist() == torch.tensor([0.03, 0.04]).tolist()
    assert torch.equal(before, after)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_threshold_that_is_not_positive_and_finite_is_refused(value: float) -> None:
    with pytest.raises(
        ValueError, match=f"max_norm must be a positive number, got {value}"
    ):
        ClipNorm(value)
    with pytest.raises(
        ValueError, match=f"clip_value must be a positive number, got {value}"
    ):
        ClipValue(value)


def test_clip_takes_one_policy_several_or_none() -> None:
    assert in_order(None) == ()
    assert in_order(ClipNorm(1.0)) == (ClipNorm(1.0),)
    assert in_order([ClipValue(2.0), ClipNorm(1.0)]) == (ClipValue(2.0), ClipNorm(1.0))


def test_something_that_is_no_policy_is_refused_with_an_example_of_one() -> None:
    with pytest.raises(
        TypeError, match=r"clip must be a policy such as ClipNorm\(5.0\).*got 5"
    ):
        in_order([5.0])  # type: ignore[list-item] # the mistake under test
