"""A threshold that moves at the start of training."""

import copy
from typing import Any

import pytest
import torch

from gradguard import ClipNorm, ClipNormWarmUp
from gradguard.clipping.policy import State
from gradguard.gradients.norms import Gradients
from tests.support.clips import apply


def after(
    policy: Any, steps: int, state: State | None = None, norm: float = 1000.0
) -> list[float]:
    state = {} if state is None else state
    return [
        float(apply([policy], Gradients([torch.tensor([norm])]), state)[1])
        for _ in range(steps)
    ]


@pytest.mark.parametrize(
    ("factor", "line"),
    [
        (10.0, [20.0, 15.5, 11.0, 6.5, 2.0, 2.0]),
        (0.5, [1.0, 1.25, 1.5, 1.75, 2.0, 2.0]),
    ],
)
def test_threshold_is_a_straight_line(factor: float, line: list[float]) -> None:
    policy = ClipNormWarmUp(2.0, factor=factor, steps=4)

    assert after(policy, 6) == pytest.approx(line)


def test_warmed_up_it_is_clip_norm_to_the_bit() -> None:
    torch.manual_seed(0)
    gradients = [torch.randn(50), torch.randn(3)]
    copies = [gradient.clone() for gradient in gradients]
    state: State = {"0.ClipNormWarmUp": {"updates": 7}}

    apply([ClipNormWarmUp(0.3, steps=7)], Gradients(gradients), state)
    apply([ClipNorm(0.3)], Gradients(copies), {})

    assert all(map(torch.equal, gradients, copies))


def test_each_parameter_is_clipped_by_itself() -> None:
    policy = ClipNormWarmUp(1.0, factor=3.0, per_parameter=True)
    gradients = Gradients([torch.tensor([2.0]), torch.tensor([9.0])])

    _, norms = apply([policy], gradients, {})

    assert norms.tolist() == pytest.approx([2.0, 3.0])


def test_goes_on_where_it_was_saved() -> None:
    policy = ClipNormWarmUp(1.0, steps=20)
    state: State = {}

    first = after(policy, 9, state)

    assert first + after(policy, 16, copy.deepcopy(state)) == after(policy, 25)


def test_threshold_in_force_is_that_of_the_last_update() -> None:
    policy = ClipNormWarmUp(1.0, factor=5.0, steps=4)
    state: State = {}
    after(policy, 2, state)

    told = [policy.thresholds({}), policy.thresholds(state["0.ClipNormWarmUp"])]

    assert told == [{"": 5.0}, {"": 4.0}]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_norm": 0.0}, "max_norm must be a positive number, got 0.0"),
        ({"factor": -1.0}, "factor must be a positive number, got -1.0"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
    ],
)
def test_a_setting_out_of_range_is_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ClipNormWarmUp(**{"max_norm": 1.0, **settings})
