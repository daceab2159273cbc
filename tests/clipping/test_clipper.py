"""Clipper in a plain loop: what it measures, clips, and remembers."""

import copy
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradguard import AutoClip, ByName, ClipNorm, Clipper, ClipValue, ZClip
from gradguard.clipping.policy import Clip, Policy, scale
from gradguard.gradients.norms import Gradients
from tests.support.clips import of_the_table

LEARNERS: list[Policy] = [
    AutoClip(10, history=30),
    ZClip(),
    ByName({"0.*": ZClip(), "*": AutoClip(50)}),
    AutoClip(30, history=30, per_parameter=True),
    ZClip(1.0, warmup=9, per_parameter=True),
]
learners = pytest.mark.parametrize("policy", LEARNERS, ids=repr)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


class Loop:
    """A plain training loop, one batch a step, each tenth a thousand times as large."""

    def __init__(self, policy: Clip) -> None:
        self.model = net()
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.01, 0.9)
        self.clipper = Clipper(self.model.named_parameters(), policy)

    def run(self, start: int, stop: int) -> None:
        for step in range(start, stop):
            x = torch.randn(2, 4, generator=torch.Generator().manual_seed(step))
            self.optimizer.zero_grad()
            size = 1000 if step % 10 == 9 else 1
            (size * self.model(x).square().mean()).backward()
            self.clipper.clip()
            self.optimizer.step()

    @property
    def weights(self) -> Tensor:
        return torch.cat([p.detach().flatten() for p in self.model.parameters()])

    def save(self) -> dict[str, Any]:
        parts = ("model", "optimizer", "clipper")
        return copy.deepcopy({part: getattr(self, part).state_dict() for part in parts})

    def load(self, state: dict[str, Any]) -> None:
        for part, content in state.items():
            getattr(self, part).load_state_dict(content)


def test_record_holds_both_norms_of_every_parameter() -> None:
    parameters = [nn.Parameter(torch.zeros(2)) for _ in "abc"]
    parameters[0].grad, parameters[2].grad = torch.tensor([3.0, 4.0]), torch.ones(2) * 6

    record = Clipper(parameters, ClipNorm(1.0)).clip()

    total = math.sqrt(5**2 + 72)
    assert record.before.tolist() == pytest.approx([5, -1, math.sqrt(72)])
    assert record.after.tolist() == pytest.approx(
        [5 / total, -1, math.sqrt(72) / total]
    )
    assert float(record.total_before) == pytest.approx(total)
    assert float(record.total_after) == pytest.approx(1.0)
    assert float(record.coefficient) == pytest.approx(1 / total)


def test_without_gradients_all_are_missing_and_nothing_is_clipped() -> None:
    record = Clipper([nn.Parameter(torch.zeros(2))], ClipNorm(1.0)).clip()

    assert record.before.tolist() == record.after.tolist() == [-1]
    assert float(record.coefficient) == 1.0


def test_clip_is_torch_s() -> None:
    ours, theirs = net(), net()
    for model in (ours, theirs):
        (100 * model(torch.ones(2, 4)).square().mean()).backward()

    Clipper(ours.parameters(), ClipNorm(1.0)).clip()
    nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)

    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert mine.grad is not None
        assert other.grad is not None
        assert torch.equal(mine.grad, other.grad)


def test_no_policy_measures_only() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, 4.0])

    record = Clipper([parameter], None).clip()

    assert parameter.grad.tolist() == [3.0, 4.0]
    assert record.before.tolist() == record.after.tolist() == [5.0]


def test_duplicates_of_sparse_gradients_are_summed_before_the_clip() -> None:
    embedding = nn.Embedding(4, 1, sparse=True)
    (30 * embedding(torch.tensor([1, 1])).sum()).backward()

    record = Clipper(embedding.parameters(), ClipValue(10.0)).clip()

    assert embedding.weight.grad is not None
    assert embedding.weight.grad.to_dense().flatten().tolist() == [0, 10, 0, 0]
    assert (record.before.item(), record.after.item()) == (60.0, 10.0)


@learners
def test_trajectory_is_the_same_with_and_without_interruption(policy: Policy) -> None:
    whole, first, second = Loop(policy), Loop(policy), Loop(policy)

    whole.run(0, 100)
    first.run(0, 55)
    second.load(first.save())
    second.run(55, 100)

    assert torch.equal(second.weights, whole.weights)


@learners
def test_what_was_learned_matters(policy: Policy) -> None:
    whole, first, second = Loop(policy), Loop(policy), Loop(policy)

    whole.run(0, 100)
    first.run(0, 55)
    second.load(first.save() | {"clipper": {}})
    second.run(55, 100)

    assert not torch.equal(second.weights, whole.weights)


@learners
def test_state_survives_a_file_read_without_pickle(
    policy: Policy, tmp_path: Any
) -> None:
    loop = Loop(policy)
    loop.run(0, 40)
    torch.save(loop.clipper.state_dict(), tmp_path / "state.pt")

    state = torch.load(tmp_path / "state.pt", weights_only=True)

    pairs = zip(leaves(state), leaves(loop.clipper.state_dict()), strict=True)
    for (path, read), (written, kept) in pairs:
        assert path == written
        if isinstance(kept, Tensor):
            torch.testing.assert_close(read, kept, equal_nan=True, rtol=0, atol=0)
        else:
            assert read == kept


def leaves(state: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(state, dict):
        yield path, state
        return
    for key, value in state.items():
        yield from leaves(value, f"{path}/{key}")


def resumed(policy: Clip, state: dict[str, Any]) -> Loop:
    loop = Loop(policy)
    loop.load({"model": net().state_dict(), "clipper": state})
    return loop


def seen(state: dict[str, Any]) -> int:
    return int(state["seen"])


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ([ZClip()], [ClipNorm(5.0), ZClip()]),
        ([ClipNorm(5.0), ZClip()], [ZClip()]),
        ([AutoClip(), ZClip()], [ZClip(), AutoClip()]),
        ([ZClip()], [ZClip(3.0)]),
    ],
    ids=["put in front", "removed", "moved", "another number"],
)
def test_change_of_policies_takes_nothing_from_the_others(
    first: list[Policy], then: list[Policy]
) -> None:
    loop = Loop(first)
    loop.run(0, 30)

    later = resumed(then, loop.clipper.state_dict())
    later.run(30, 31)

    assert seen(later.clipper.state_dict()["0.ZClip"]) == 31


def test_change_within_a_pattern_takes_nothing_from_the_others() -> None:
    loop = Loop(ByName({"0.*": ZClip()}))
    loop.run(0, 30)

    later = resumed(
        ByName({"2.*": ClipNorm(1.0), "0.*": [ClipNorm(5.0), ZClip()]}),
        loop.clipper.state_dict(),
    )
    later.run(30, 31)

    learned = [
        x.clipper.state_dict()["0.ByName"]["0.*"]["0.ZClip"] for x in (loop, later)
    ]
    assert 20 < seen(learned[0]) <= seen(learned[1])


def test_two_of_one_class_learn_apart() -> None:
    loop = Loop([AutoClip(50), AutoClip(10)])
    loop.run(0, 30)

    state = loop.clipper.state_dict()

    assert list(state) == ["0.AutoClip", "1.AutoClip"]
    assert not torch.equal(state["0.AutoClip"]["totals"], state["1.AutoClip"]["totals"])


def as_0_1_filed_it(state: dict[str, Any]) -> dict[str, Any]:
    """File states by place and class, as the release did, inside patterns as well."""
    filed = {}
    for place, (key, own) in enumerate(state.items()):
        name = key.partition(".")[2]
        inner = (
            {pattern: as_0_1_filed_it(inside) for pattern, inside in own.items()}
            if name == "ByName"
            else own
        )
        filed[f"{place}.{name}"] = inner
    return filed


@pytest.mark.parametrize(
    "policy",
    [
        *LEARNERS,
        [ClipNorm(5.0), ZClip(), ZClip(3.0)],
        [ZClip(), ByName({"0.weight": ZClip(), "*": [AutoClip(50), AutoClip(90)]})],
    ],
    ids=repr,
)
def test_state_of_an_old_checkpoint_is_taken_up(policy: Clip) -> None:
    whole, first, second = Loop(policy), Loop(policy), Loop(policy)

    whole.run(0, 100)
    first.run(0, 55)
    saved = first.save()
    second.load(saved | {"clipper": as_0_1_filed_it(saved["clipper"])})
    second.run(55, 100)

    assert torch.equal(second.weights, whole.weights)


def test_old_checkpoint_helps_a_policy_behind_another() -> None:
    loop = Loop(ZClip())
    loop.run(0, 30)

    later = resumed(
        [ClipNorm(5.0), ZClip()], {"0.ZClip": loop.clipper.state_dict()["0.ZClip"]}
    )
    later.run(30, 31)

    assert seen(later.clipper.state_dict()["0.ZClip"]) == 31


class Halving:
    """A user's own policy, with nothing but what `Policy` asks for."""

    def clip(
        self, gradients: Gradients, norms: Tensor, state: dict[str, Any]
    ) -> Tensor:
        state["threshold"] = norms.max() / 2
        return scale(gradients, norms, torch.full_like(norms, 0.5))


def test_own_policy_clips_and_its_threshold_is_known() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, 4.0])
    clipper = Clipper([("a", parameter)], [Halving(), ByName({"a": Halving()})])

    record = clipper.clip()

    assert record.after.tolist() == [5 / 4]
    assert clipper.thresholds() == {"0.Halving": 5 / 2, "0.ByName": 5 / 4}


def test_threshold_of_a_policy_that_is_gone_is_not_in_force() -> None:
    loop = Loop([Halving(), ClipNorm(5.0)])
    loop.run(0, 3)

    later = resumed(ClipNorm(5.0), loop.clipper.state_dict())
    later.run(3, 4)

    assert later.clipper.thresholds() == {"": 5.0}


def test_state_is_a_copy() -> None:
    loop = Loop(AutoClip(history=30))
    loop.run(0, 5)
    state = loop.clipper.state_dict()

    loop.run(5, 30)

    assert state["0.AutoClip"]["seen"] == 5


def test_policy_is_shared_and_what_it_learns_is_not() -> None:
    policy = AutoClip()
    one, two = Loop(policy), Loop(policy)

    one.run(0, 9)
    two.run(0, 4)

    seen = [x.clipper.state_dict()["0.AutoClip"]["seen"].item() for x in (one, two)]
    assert seen == [9, 4]


@pytest.mark.parametrize(
    ("policies", "thresholds"),
    [
        ([ClipNorm(5.0)], {"": 5.0}),
        ([ClipNorm(5.0), ClipValue(1.0)], {"0.ClipNorm": 5.0, "0.ClipValue": 1.0}),
        (
            [ByName({"a": ClipNorm(5.0), "b": ClipValue(1.0)})],
            {"a": 5.0, "b": 1.0},
        ),
    ],
)
def test_thresholds_in_force(
    policies: list[Policy], thresholds: dict[str, float]
) -> None:
    a, b = (nn.Parameter(torch.zeros(1)) for _ in "ab")
    a.grad, b.grad = torch.ones(1), torch.ones(1)
    clipper = Clipper([("a", a), ("b", b)], policies)

    clipper.clip()

    assert clipper.thresholds() == thresholds


@pytest.mark.parametrize("policy", of_the_table(), ids=repr)
def test_every_policy_tells_its_thresholds(policy: Policy) -> None:
    loop = Loop(policy)
    loop.run(0, 3)

    told = loop.clipper.thresholds()

    assert all(float(value) > 0 for value in told.values())
    assert told.keys() in ({""}, {"smallest", "largest"})


@pytest.mark.parametrize("policy", of_the_table(), ids=repr)
def test_every_policy_goes_on_where_it_was_saved(policy: Policy) -> None:
    whole, first, second = Loop(policy), Loop(policy), Loop(policy)

    whole.run(0, 40)
    first.run(0, 25)
    second.load(first.save())
    second.run(25, 40)

    assert torch.equal(second.weights, whole.weights)


def test_learned_threshold_is_the_one_in_force() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    clipper = Clipper([parameter], AutoClip(50))

    for norm in (1.0, 2.0, 9.0):
        parameter.grad = torch.tensor([norm])
        clipper.clip()

    assert {key: float(value) for key, value in clipper.thresholds().items()} == {"": 2}


def test_pattern_without_parameters_is_a_mistake() -> None:
    with pytest.raises(
        ValueError, match=r"matches no parameter; the nearest: 0\.weight"
    ):
        Clipper(net().named_parameters(), ByName({"0.wieght": ClipNorm(1.0)}))


def test_what_is_no_policy_is_refused() -> None:
    with pytest.raises(TypeError, match="clip must be a policy"):
        Clipper(net().parameters(), 5.0)  # type: ignore[arg-type] # the mistake under test
