"""Policies by parameter name: who clips what, and patterns that are mistakes."""

import copy
import dataclasses
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gradguard import AdaptiveClip, AutoClip, ByName, ClipNorm, ClipValue, ZClip
from gradguard.clipping.policy import Policy, State, check, in_words
from gradguard.gradients.norms import Gradients
from tests.support.clips import apply

NAMES = ["rnn.weight", "rnn.bias", "head.weight", "head.bias"]


def named(gradients: list[Tensor], names: list[str], **options: Any) -> Gradients:
    parameters = [torch.ones_like(gradient) for gradient in gradients]
    return Gradients(
        gradients,
        parameters=parameters,
        names=dict(zip(parameters, names, strict=True)),
        **options,
    )


def clip(
    policy: Policy, *gradients: list[float], state: State | None = None
) -> tuple[list[list[float]], list[float]]:
    """Return the clipped gradients, called as in NAMES, and their norms after."""
    tensors = [torch.tensor(gradient) for gradient in gradients]
    names = NAMES[: len(tensors)]
    _, after = apply([policy], named(tensors, names), {} if state is None else state)
    return [tensor.tolist() for tensor in tensors], after.tolist()


def test_thresholds_of_graves() -> None:
    graves = ByName({"head.*": ClipValue(100.0), "rnn.*": ClipValue(10.0)})

    clipped, after = clip(graves, [50.0], [-5.0], [500.0], [-50.0])

    assert clipped == [[10.0], [-5.0], [100.0], [-50.0]]
    assert after == [10.0, 5.0, 100.0, 50.0]


def test_each_policy_sees_the_norm_of_its_own_parameters() -> None:
    clipped, after = clip(
        ByName({"rnn.*": ClipNorm(1.0), "head.*": ClipNorm(2.0)}),
        *([3.0], [4.0], [5.0], [12.0]),
    )

    assert [x for (x,) in clipped] == pytest.approx([3 / 5, 4 / 5, 10 / 13, 24 / 13])
    assert after == pytest.approx([3 / 5, 4 / 5, 10 / 13, 24 / 13])


def test_first_match_wins() -> None:
    policy = ByName({"*.bias": ClipValue(1.0), "rnn.*": ClipValue(2.0)})

    assert clip(policy, [9.0], [9.0])[0] == [[2.0], [1.0]]


def test_what_nothing_matches_is_left_alone() -> None:
    clipped, _ = clip(ByName({"rnn.*": ClipValue(1.0)}), [9.0], [9.0], [9.0], [9.0])

    assert clipped == [[1.0], [1.0], [9.0], [9.0]]


def test_sequences_and_by_name_nest() -> None:
    policy = ByName(
        {
            "rnn.*": [ClipValue(3.0), ClipNorm(1.0)],
            "*": ByName({"*.weight": ClipValue(5.0), "*": ClipNorm(2.0)}),
        }
    )

    clipped, _ = clip(policy, [30.0], [4.0], [9.0], [9.0])

    assert [x for (x,) in clipped] == pytest.approx([0.5**0.5, 0.5**0.5, 5.0, 2.0])


def test_each_pattern_learns_by_itself() -> None:
    policy = ByName({"rnn.*": AutoClip(50), "head.*": AutoClip(50)})
    state: State = {}

    for small in (1.0, 1.0, 1.0):
        clip(policy, [small], [0.0], [100 * small], [0.0], state=state)
    clipped, _ = clip(policy, [50.0], [0.0], [50.0], [0.0], state=state)

    assert clipped == [[pytest.approx(1.0)], [0.0], [50.0], [0.0]]


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    seed=st.integers(0, 999),
    policy=st.sampled_from(
        [ClipNorm(1.0), ClipValue(0.5), AutoClip(50), ZClip(), AdaptiveClip()]
    ),
)
@settings(max_examples=60, deadline=None)
def test_one_pattern_for_all_is_the_policy_itself(
    sizes: list[int], seed: int, policy: Policy
) -> None:
    torch.manual_seed(seed)
    gradients = [torch.randn(size) for size in sizes]
    copies = [gradient.clone() for gradient in gradients]
    names = [f"layer.{place}" for place in range(len(sizes))]
    direct: State = {}
    inside: State = {}

    for _ in range(3):
        _, expected = apply([policy], named(gradients, names), direct)
        _, after = apply([ByName({"*": policy})], named(copies, names), inside)

        assert torch.equal(after, expected)
        assert all(map(torch.equal, gradients, copies))


def test_norms_of_shards_are_reduced_the_same_on_all_ranks() -> None:
    calls = []

    def double(norms: Tensor) -> Tensor:
        calls.append(len(norms))
        return 2 * norms

    gradients = named([torch.ones(1) for _ in NAMES], NAMES, whole=double)
    policy = ByName({"rnn.*": ClipValue(0.1), "head.weight": ClipNorm(1.0)})

    before, after = apply([policy], gradients, {})

    assert before.tolist() == [2.0] * 4
    assert after.tolist() == pytest.approx([0.2, 0.2, 1.0, 2.0])
    assert calls == [4, 4]  # of all norms, whichever of them a policy asks for


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (
            ByName({"rn.*": ClipNorm(1.0)}),
            r"pattern 'rn\.\*' matches no parameter; the nearest: rnn\.",
        ),
        (
            ByName({"*": ClipNorm(1.0), "head.*": ClipNorm(2.0)}),
            r"'head\.\*' matches only parameters that earlier patterns take "
            r"\(head\.weight and head\.bias\)",
        ),
        (
            ByName({"rnn.*": ByName({"head.*": ClipNorm(1.0)})}),
            r"pattern 'head\.\*' matches no parameter; the nearest: rnn\.",
        ),
        (AdaptiveClip(exclude=("haed.*",)), r"'haed\.\*' matches no parameter"),
    ],
)
def test_a_pattern_without_parameters_is_a_mistake(
    policy: Policy, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check([policy], NAMES)


def test_patterns_that_all_have_parameters_are_none() -> None:
    check([ByName({"rnn.*": AdaptiveClip(exclude=("*.bias",))}), ZClip()], NAMES)


def test_what_is_no_policy_is_refused() -> None:
    with pytest.raises(TypeError, match="clip must be a policy"):
        ByName({"*": 5.0})  # type: ignore[dict-item] # the mistake under test


def test_by_name_is_a_value_that_reads_as_its_code() -> None:
    policy = ByName({"a.*": ClipNorm(1.0), "*": [ClipValue(2.0), ZClip()]})

    assert eval(in_words([policy])) == policy
    assert hash(policy) == hash(eval(repr(policy)))


def test_by_name_is_copied_and_pickled_as_it_is() -> None:
    policy = ByName({"a.*": [ClipNorm(1.0)], "*": AdaptiveClip(exclude=("b",))})

    assert copy.deepcopy(policy) == policy
    assert pickle.loads(pickle.dumps(policy)) == policy
    assert dataclasses.replace(policy) == policy
