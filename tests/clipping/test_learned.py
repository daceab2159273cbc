"""Policies that learn, against their papers' formulas, and what must hold of each."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gradguard.clipping.agc import AdaptiveClip
from gradguard.clipping.fixed import ClipNorm, ClipValue
from gradguard.clipping.learned import AutoClip, ZClip
from gradguard.clipping.policy import Policy, State
from gradguard.gradients.norms import Gradients
from tests.support.clips import apply

LEARNERS: list[Policy] = [AutoClip(10), AutoClip(50, history=20), ZClip()]
POLICIES: list[Policy] = [*LEARNERS, AdaptiveClip()]
learners = pytest.mark.parametrize("policy", LEARNERS, ids=repr)
any_policy = pytest.mark.parametrize("policy", POLICIES, ids=repr)
examples = settings(max_examples=40, deadline=None)

gradient_lists = st.builds(
    lambda sizes, seed, scale: [
        scale * torch.randn(size, generator=torch.Generator().manual_seed(seed + size))
        for size in sizes
    ],
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    seed=st.integers(0, 2**32),
    scale=st.sampled_from([0.0, 1e-12, 1e-3, 1.0, 1e3, 1e18, 1e25]),
)


def clip(
    policy: Policy, gradients: list[Tensor], state: State, weights: Any = None
) -> Tensor:
    """Clip in place, all weights 1 if not given; return the norms after."""
    weights = weights or [torch.ones_like(gradient) for gradient in gradients]
    return apply([policy], Gradients(gradients, parameters=weights), state)[1]


def totals_after(
    policy: Policy, totals: Any, state: State | None = None
) -> list[float]:
    """Send gradients of these norms through the policy, one a step."""
    state = {} if state is None else state
    return [
        float(clip(policy, [torch.tensor([total])], state).norm()) for total in totals
    ]


def healthy(steps: int, seed: int = 0) -> list[float]:
    noise = torch.randn(steps, generator=torch.Generator().manual_seed(seed))
    return (1 + 0.1 * noise).tolist()


def autoclip_of_the_paper(totals: list[float], percentile: float) -> list[float]:
    after = []
    for step, total in enumerate(totals):
        eta = np.percentile(totals[: step + 1], percentile)
        after.append(total * min(1.0, eta / total))
    return after


def zclip_of_the_paper(totals: list[float]) -> list[float]:
    after = totals[:25]
    mean, variance = float(np.mean(totals[:25])), float(np.var(totals[:25]))
    for total in totals[25:]:
        std = math.sqrt(variance)
        z = (total - mean) / std
        clipped = mean + 2.5**2 / z * std if z > 2.5 else total
        after.append(clipped)
        mean = 0.97 * mean + 0.03 * clipped
        variance = 0.97 * variance + 0.03 * (clipped - mean) ** 2
    return after


def with_spikes(totals: list[float]) -> list[float]:
    return [10 * t if i % 17 == 16 else t for i, t in enumerate(totals)]


@pytest.mark.parametrize("percentile", [10, 50, 90, 100])
def test_autoclip_is_the_paper_s(percentile: float) -> None:
    totals = with_spikes(healthy(200))

    after = totals_after(AutoClip(percentile), totals)

    assert after == pytest.approx(autoclip_of_the_paper(totals, percentile), rel=1e-6)


def test_autoclip_forgets_what_is_older_than_its_history() -> None:
    old, new = [1.0] * 30, [2.0] * 20

    after = totals_after(AutoClip(10, history=10), old + new)

    assert after[30] == pytest.approx(1.0)  # the percentile of nine 1s and a 2
    assert after[-1] == pytest.approx(2.0)


def test_zclip_is_the_paper_s() -> None:
    totals = with_spikes(healthy(200))

    after = totals_after(ZClip(), totals)

    assert after == pytest.approx(zclip_of_the_paper(totals), rel=1e-5)


def test_zclip_leaves_the_warm_up_alone() -> None:
    spikes = [1.0, 100.0] * 12

    assert totals_after(ZClip(), spikes) == pytest.approx(spikes)


def test_zclip_clips_above_norms_that_never_varied() -> None:
    after = totals_after(ZClip(), [1.0] * 25 + [1.0, 5.0, 0.5])

    assert after[-3:] == pytest.approx([1.0, 1.0, 0.5])


@learners
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_bad_step_is_forgotten(policy: Policy, bad: float) -> None:
    before = healthy(50)

    unhurt = totals_after(policy, [*before, *healthy(200, seed=1), 5.0])
    hurt = totals_after(policy, [*before, bad, *healthy(200, seed=1), 5.0])

    assert not math.isfinite(hurt.pop(50))
    assert hurt == unhurt
    assert hurt[-1] < 2  # the spike is still clipped


@learners
def test_bad_steps_from_the_start_are_forgotten(policy: Policy) -> None:
    after = totals_after(policy, [math.nan, math.inf, *with_spikes(healthy(60))])

    assert after[2:] == totals_after(policy, with_spikes(healthy(60)))


@learners
def test_a_bad_gradient_is_left_as_it_is(policy: Policy) -> None:
    state: State = {}
    totals_after(policy, healthy(30), state)
    gradients = [torch.tensor([3.0, math.inf]), torch.tensor([4.0])]

    clip(policy, gradients, state)

    assert gradients[0].tolist() == [3.0, math.inf]
    assert gradients[1].tolist() == [4.0]


@learners
def test_memory_is_bounded(policy: Policy) -> None:
    def size(state: Any) -> int:
        if isinstance(state, dict):
            return sum(map(size, state.values()))
        return state.numel() if isinstance(state, Tensor) else 1

    state: State = {}
    totals_after(policy, healthy(1), state)
    small = size(state)
    totals_after(policy, healthy(100), state)

    assert size(state) == small


@learners
def test_state_given_back_continues_the_same_trajectory(policy: Policy) -> None:
    totals = with_spikes(healthy(120))
    state: State = {}

    first = totals_after(policy, totals[:60], state)
    saved = copy.deepcopy(state)
    totals_after(policy, [100.0] * 9, state)  # does not reach what was saved

    assert first + totals_after(policy, totals[60:], saved) == totals_after(
        policy, totals
    )


@any_policy
@given(gradients=gradient_lists, steps=st.integers(0, 40))
@examples
def test_never_enlarges_nor_flips_a_sign_and_reports_the_norms(
    policy: Policy, gradients: list[Tensor], steps: int
) -> None:
    state: State = {}
    for total in healthy(steps):
        clip(policy, [torch.tensor([total])], state)
    originals = [gradient.clone() for gradient in gradients]

    after = clip(policy, gradients, state)

    for clipped, original in zip(gradients, originals, strict=True):
        assert (clipped.abs() <= original.abs()).all()
        assert (clipped * original.sign() >= 0).all()
    expected = [float(gradient.double().norm()) for gradient in gradients]
    assert after.tolist() == pytest.approx(expected, rel=1e-5)


@learners
@given(gradients=gradient_lists)
@examples
def test_learners_keep_the_direction(policy: Policy, gradients: list[Tensor]) -> None:
    state: State = {}
    totals_after(policy, healthy(40), state)
    original = torch.cat(gradients).double()

    clip(policy, gradients, state)

    clipped = torch.cat(gradients).double()
    length = original.norm()
    if length > 0:
        torch.testing.assert_close(
            clipped, original * (clipped.norm() / length), rtol=1e-4, atol=1e-12
        )


@any_policy
@given(gradients=gradient_lists, seed=st.integers(0, 99))
@examples
def test_order_of_parameters_does_not_matter(
    policy: Policy, gradients: list[Tensor], seed: int
) -> None:
    order = torch.randperm(
        len(gradients), generator=torch.Generator().manual_seed(seed)
    )
    permuted = [gradients[place].clone() for place in order]
    state: State = {}
    totals_after(policy, healthy(40), state)

    clip(policy, gradients, copy.deepcopy(state))
    clip(policy, permuted, state)

    for place, original in enumerate(order):
        torch.testing.assert_close(
            permuted[place], gradients[original], rtol=2e-6, atol=0
        )


def adaptive_clip_of_the_paper(
    gradient: Tensor, weight: Tensor, clipping: float, eps: float = 1e-3
) -> Tensor:
    """Row by row, in Python numbers."""
    if gradient.ndim < 2:
        rows, weights = [gradient.flatten()], [weight.flatten()]
    else:
        rows, weights = list(gradient.flatten(1)), list(weight.flatten(1))
    clipped = []
    for row, w in zip(rows, weights, strict=True):
        g_norm = math.sqrt(sum(x * x for x in row.tolist()))
        w_norm = max(math.sqrt(sum(x * x for x in w.tolist())), eps)
        too_large = g_norm > 0 and g_norm / w_norm > clipping
        clipped.append(row * (clipping * w_norm / g_norm) if too_large else row)
    return torch.cat(clipped).reshape(gradient.shape)


@pytest.mark.parametrize("shape", [(), (7,), (5, 7), (4, 3, 2, 2)])
@pytest.mark.parametrize("size", [0.0, 0.005, 1.0])
def test_adaptive_clip_is_the_paper_s(shape: tuple[int, ...], size: float) -> None:
    torch.manual_seed(0)
    weight = torch.randn(shape)
    gradient = size * torch.randn(shape)
    expected = adaptive_clip_of_the_paper(gradient, weight, 0.01)

    clip(AdaptiveClip(0.01), [gradient], {}, [weight])

    torch.testing.assert_close(gradient, expected)


def test_adaptive_clip_twice_changes_nothing_more() -> None:
    torch.manual_seed(0)
    weight, gradient = torch.randn(5, 7), torch.randn(5, 7)

    clip(AdaptiveClip(), [gradient], {}, [weight])
    once = gradient.clone()
    clip(AdaptiveClip(), [gradient], {}, [weight])

    torch.testing.assert_close(gradient, once, rtol=2e-6, atol=0)


def test_adaptive_clip_lets_parameters_train_that_start_at_zero() -> None:
    gradient = torch.tensor([3.0, 4.0])

    clip(AdaptiveClip(0.01, eps=1e-3), [gradient], {}, [torch.zeros(2)])

    assert gradient.tolist() == pytest.approx(
        [0.01 * 1e-3 * 3 / 5, 0.01 * 1e-3 * 4 / 5]
    )


def test_adaptive_clip_leaves_out_what_is_excluded() -> None:
    body, head = (torch.nn.Parameter(torch.ones(1)) for _ in "ab")
    gradients = Gradients(
        [torch.ones(1), torch.ones(1)],
        parameters=[body, head],
        names={body: "body.weight", head: "head.weight"},
    )

    _, after = apply([AdaptiveClip(0.01, exclude=("head.*",))], gradients, {})

    assert after.tolist() == pytest.approx([0.01, 1.0])


def test_adaptive_clip_reaches_sparse_complex_and_half_gradients() -> None:
    weight = torch.tensor([[3.0, 4.0], [0.0, 0.0], [6.0, 8.0]])
    sparse = torch.sparse_coo_tensor(
        torch.tensor([[2]]), torch.tensor([[0.0, 2.0]]), (3, 2), check_invariants=True
    ).coalesce()
    gradients = [sparse, torch.tensor([3 + 4j]), torch.full((2, 4), 5.0).bfloat16()]
    weights = [weight, torch.tensor([0 + 10j]), torch.ones(2, 4).bfloat16()]

    clip(AdaptiveClip(0.1), gradients, {}, weights)

    assert sparse.to_dense().tolist() == [[0, 0], [0, 0], [0, 0.1 * 10]]
    assert gradients[1].tolist() == pytest.approx([0.6 + 0.8j])
    assert gradients[2].tolist() == torch.full((2, 4), 0.1).bfloat16().tolist()


def test_adaptive_clip_holds_for_rows_whose_squares_overflow() -> None:
    gradient = torch.full((2, 3), 1e30)

    clip(AdaptiveClip(0.01), [gradient], {})

    assert gradient.flatten().tolist() == pytest.approx([0.01] * 6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AutoClip(0), "percentile must be above 0 and at most 100, got 0"),
        (lambda: AutoClip(101), "percentile must be above 0 and at most 100, got 101"),
        (lambda: AutoClip(history=0), "history must be at least 1, got 0"),
        (lambda: ZClip(-1), "z_thresh must be a positive number, got -1"),
        (lambda: ZClip(alpha=1), "alpha must be between 0 and 1, got 1"),
        (lambda: ZClip(warmup=1), "warmup must be at least 2, got 1"),
        (lambda: AdaptiveClip(math.nan), "clipping must be a positive number, got nan"),
        (lambda: AdaptiveClip(eps=0), "eps must be a positive number, got 0"),
    ],
)
def test_a_setting_out_of_range_is_refused(
    make: Callable[[], Policy], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_adaptive_clip_refuses_shards() -> None:
    parameter = torch.ones(2)
    shards = Gradients([torch.ones(2)], parameters=[parameter], whole=lambda n: n)

    with pytest.raises(NotImplementedError, match="needs whole rows of parameters"):
        apply([AdaptiveClip()], shards, {})


class NoSync(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch's
    """Forbids what makes the host wait for an accelerator."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default, "host sync"
        assert func is not torch.ops.aten.nonzero.default, "host sync"
        return func(*args, **kwargs or {})


def no_sync() -> NoSync:
    return NoSync()  # type: ignore[no-untyped-call] # by its base


@pytest.mark.parametrize("policy", [*POLICIES, ClipNorm(1.0), ClipValue(1.0)], ids=repr)
def test_no_policy_syncs(policy: Policy) -> None:
    state: State = {}

    with no_sync():
        for total in with_spikes(healthy(60)):
            clip(policy, [torch.full((3, 2), total), torch.full((2,), total)], state)


def test_a_planted_item_is_seen() -> None:
    with pytest.raises(AssertionError, match="host sync"), no_sync():
        torch.ones(1).sum().item()
