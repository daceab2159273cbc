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
from gradguard.clipping.clipper import Clipper
from gradguard.clipping.learned import AutoClip, ZClip
from gradguard.clipping.policy import Policy, State
from gradguard.gradients.norms import Gradients
from tests.support.clips import apply, of_the_table

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
@given(
    totals=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=80),
    places=st.lists(st.integers(0, 80), max_size=30),
)
@examples
def test_zeros_teach_nothing(
    policy: Policy, totals: list[float], places: list[int]
) -> None:
    mixed: list[float] = list(totals)
    for place in places:
        mixed.insert(place, 0.0)

    after = totals_after(policy, mixed)

    assert [x for x in after if x > 0] == totals_after(policy, totals)


@given(
    tiny=st.floats(1e-30, 1e-2), steps=st.integers(30, 200), level=st.floats(0.1, 1e3)
)
@examples
def test_late_start_opens_zclip(tiny: float, steps: int, level: float) -> None:
    early = [tiny * total for total in healthy(steps)]
    late = [level * total for total in healthy(600)]

    after = totals_after(ZClip(), early + late)[steps:]

    assert sum(after[-100:]) > 0.9 * sum(late[-100:])


@given(
    tiny=st.floats(1e-30, 1e-2), steps=st.integers(1, 400), level=st.floats(0.1, 1e3)
)
@examples
def test_late_start_opens_autoclip(tiny: float, steps: int, level: float) -> None:
    policy = AutoClip(10, history=200)
    late = [level * total for total in healthy(300)]

    after = totals_after(policy, [tiny] * steps + late)[steps:]

    assert min(a / b for a, b in zip(after[30:], late[30:], strict=True)) > 0.005
    assert sum(after[-50:]) > 0.5 * sum(late[-50:])


def test_autoclip_cuts_no_usual_step_to_nothing() -> None:
    mostly_small = [1e-9 if step % 3 else 1.0 for step in range(300)]

    after = totals_after(AutoClip(10), mostly_small)

    assert after[-3] == pytest.approx(0.01 * 1.0)


def test_spikes_are_clipped_to_the_mean_though_they_come_in_pairs() -> None:
    spikes = [1e6 if step % 40 in (0, 1) and step > 30 else 1.0 for step in range(300)]

    after = totals_after(ZClip(), spikes)

    assert max(after) < 1.5


def trained(policy: Policy | None, loss: Any, steps: int) -> float:
    """Train one linear layer by SGD; return its last hundred losses' mean."""
    torch.manual_seed(0)
    model = torch.nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    clipper = Clipper(model.named_parameters(), policy)
    losses = []
    for step in range(steps):
        x = torch.randn(4, 8)
        value, scale = loss(model, x, step)
        optimizer.zero_grad()
        (scale * value).backward()
        clipper.clip()
        optimizer.step()
        losses.append(float(value.detach()))
    return sum(losses[-100:]) / 100


def hinge(model: Any, x: Tensor, _: int) -> tuple[Tensor, float]:
    """A margin loss that is exactly 0 on most steps once it has been learned a little."""
    return (0.3 - x[:, :1].sign() * model(x)).clamp(min=0).mean(), 1.0


def late(model: Any, x: Tensor, step: int) -> tuple[Tensor, float]:
    """A regression whose loss counts for next to nothing on the first 200 steps."""
    return (model(x) - 3 * x[:, :1]).square().mean(), 1.0 if step >= 200 else 1e-9


each_way = pytest.mark.parametrize(
    "policy",
    [
        AutoClip(10, history=200),
        ZClip(),
        AutoClip(10, history=200, per_parameter=True),
        ZClip(per_parameter=True),
    ],
    ids=repr,
)


@each_way
def test_hinge_loss_trains_as_without_a_clip(policy: Policy) -> None:
    start = trained(None, hinge, 100)

    assert trained(policy, hinge, 1000) < 0.3 * start


@each_way
def test_late_start_trains(policy: Policy) -> None:
    untrained = trained(None, late, 200)

    assert trained(policy, late, 1000) < 0.01 * untrained


NAMES = ("first", "second", "third")


def clip_named(
    policy: Policy, norms: dict[str, float], state: State
) -> dict[str, float]:
    """Clip one gradient of each norm; return the norms after by name."""
    parameters = {name: torch.ones(1) for name in norms}
    gradients = Gradients(
        [torch.tensor([norm]) for norm in norms.values()],
        parameters=list(parameters.values()),
        names={parameter: name for name, parameter in parameters.items()},
    )
    return dict(zip(norms, apply([policy], gradients, state)[1].tolist(), strict=True))


per_parameter = pytest.mark.parametrize(
    ("each", "alone"),
    [
        (AutoClip(30, history=20, per_parameter=True), AutoClip(30, history=20)),
        (ZClip(warmup=5, per_parameter=True), ZClip(warmup=5)),
    ],
    ids=["AutoClip", "ZClip"],
)


def of_each(steps: int) -> list[dict[str, float]]:
    """Norms of three parameters; in some steps some have no gradient, in any order."""
    columns = [with_spikes(healthy(steps, seed)) for seed in range(3)]
    rows = []
    for step, values in enumerate(zip(*columns, strict=True)):
        row = dict(
            zip(NAMES, (1e-3 * values[0], values[1], 1e3 * values[2]), strict=True)
        )
        if step % 5 == 2:
            del row["second"]
        if step < 9:
            del row["third"]
        rows.append(row if step % 2 else dict(reversed(row.items())))
    return rows


@per_parameter
def test_each_parameter_learns_as_if_it_were_alone(each: Policy, alone: Policy) -> None:
    state: State = {}
    rows = of_each(120)

    after = [clip_named(each, row, state) for row in rows]

    for name in NAMES:
        own = [row[name] for row in rows if name in row]
        mine = [row[name] for row in after if name in row]
        assert mine == pytest.approx(totals_after(alone, own), rel=1e-6)


@per_parameter
def test_parameters_without_names_learn_by_their_place(
    each: Policy, alone: Policy
) -> None:
    state: State = {}
    rows = [(a, 100 * b) for a, b in zip(healthy(60), healthy(60, 1), strict=True)]

    after = [
        apply([each], Gradients([torch.tensor([n]) for n in row]), state)[1].tolist()
        for row in rows
    ]

    for column in (0, 1):
        own = [row[column] for row in rows]
        expected = totals_after(alone, own)
        assert [row[column] for row in after] == pytest.approx(expected, rel=1e-6)


@per_parameter
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_gradient_among_good_ones_teaches_none(
    each: Policy,
    alone: Policy,  # noqa: ARG001 (the pair is one case)
    bad: float,
) -> None:
    state: State = {}
    for row in of_each(40):
        clip_named(each, row, state)
    saved, key = copy.deepcopy(state), f"0.{type(each).__name__}"

    after = clip_named(each, {"first": bad, "second": 99.0, "third": 1.0}, state)

    assert after["second"] == 99.0
    for field in saved[key].keys() - {"names", "threshold"}:
        torch.testing.assert_close(
            state[key][field], saved[key][field], equal_nan=True, rtol=0, atol=0
        )


@per_parameter
def test_state_of_the_total_is_forgotten_for_that_of_each(
    each: Policy, alone: Policy
) -> None:
    state: State = {}
    totals_after(alone, healthy(30), state)

    clip_named(each, {"first": 1.0}, state)

    assert state[f"0.{type(each).__name__}"]["seen"].tolist() == [1]


def test_thresholds_of_each_are_told_by_the_smallest_and_the_largest() -> None:
    policy = AutoClip(100, per_parameter=True)
    state: State = {}
    clip_named(policy, {"first": 2.0, "second": 8.0, "third": 4.0}, state)

    told = policy.thresholds(state["0.AutoClip"])

    assert {key: float(value) for key, value in told.items()} == {
        "smallest": 2.0,
        "largest": 8.0,
    }


def test_zclip_goes_on_from_what_0_1_kept() -> None:
    state: State = {}
    totals_after(ZClip(), healthy(60), state)
    del state["0.ZClip"]["level"]

    after = totals_after(ZClip(), [1.0, 50.0], state)

    assert after[0] == 1.0
    assert after[1] < 1.5


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


@pytest.mark.parametrize("policy", [*of_the_table(), ZClip(warmup=2)], ids=repr)
def test_no_policy_syncs(policy: Policy) -> None:
    state: State = {}

    with no_sync():
        for total in with_spikes(healthy(60)):
            clip(policy, [torch.full((3, 2), total), torch.full((2,), total)], state)


def test_a_planted_item_is_seen() -> None:
    with pytest.raises(AssertionError, match="host sync"), no_sync():
        torch.ones(1).sum().item()
