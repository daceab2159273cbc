"""AdaGC against the algorithm of its paper, and what the paper leaves open."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradguard import AdaGC, Clipper
from gradguard.clipping.policy import State
from gradguard.gradients.norms import Gradients
from tests.support.clips import apply

NAMES = ("first", "second", "third")


def clip(policy: AdaGC, norms: dict[str, float], state: State) -> dict[str, float]:
    """Clip one gradient of each norm; return the norms after by name."""
    parameters = {name: torch.ones(1, dtype=torch.float64) for name in norms}
    gradients = Gradients(
        [torch.tensor([norm], dtype=torch.float64) for norm in norms.values()],
        parameters=list(parameters.values()),
        names={parameter: name for name, parameter in parameters.items()},
    )
    return dict(zip(norms, apply([policy], gradients, state)[1].tolist(), strict=True))


def run(policy: AdaGC, rows: Any, state: State | None = None) -> list[list[float]]:
    state = {} if state is None else state
    return [
        list(clip(policy, dict(zip(NAMES, row, strict=True)), state).values())
        for row in rows
    ]


def adagc_of_the_paper(rows: Any, rel: float, absolute: float, beta: float) -> Any:
    """Algorithm 1 up to the clipped gradients; `T_start` is 100."""
    gamma = np.full(rows.shape[1], np.inf)
    after = []
    for step, g in enumerate(rows):
        if step < 100:
            clipped = g * min(absolute / np.sqrt((g**2).sum()), 1.0)
            gamma = np.minimum(gamma, clipped)
        else:
            clipped = g * np.minimum(rel * gamma / g, 1.0)
            gamma = beta * gamma + (1 - beta) * clipped
        after.append(clipped)
    return np.array(after)


def noisy(steps: int, seed: int = 0) -> Any:
    """Norms of three scales, log-normal, each tenth step a spike of one of them."""
    random = np.random.default_rng(seed)
    rows = np.exp(0.5 * random.standard_normal((steps, 3))) * [0.01, 0.3, 3.0]
    rows[9::10, 1] *= 100
    return rows


@pytest.mark.parametrize(
    ("rel", "absolute", "beta"), [(1.05, 1.0, 0.98), (1.5, 0.1, 0.9)]
)
def test_is_the_paper_s_for_500_steps(rel: float, absolute: float, beta: float) -> None:
    rows = noisy(500)

    after = run(AdaGC(rel, lambda_abs=absolute, beta=beta), rows)

    expected = adagc_of_the_paper(rows, rel, absolute, beta)
    np.testing.assert_allclose(after, expected, rtol=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("start", [0, 50, 150])
def test_bad_steps_teach_nothing(bad: float, start: int) -> None:
    rows = noisy(300).tolist()
    hurt = [*rows[:start], [1.0, bad, 1.0], *rows[start:]]

    after = run(AdaGC(), hurt)

    assert after.pop(start)[::2] == [1.0, 1.0]  # left as it was
    assert after == run(AdaGC(), rows)


@given(places=st.lists(st.integers(0, 200), max_size=9))
@settings(max_examples=20, deadline=None)
def test_zeros_teach_nothing(places: list[int]) -> None:
    rows = noisy(200).tolist()
    mixed = list(rows)
    for place in places:
        mixed.insert(place, [0.0, 0.0, 0.0])

    after = run(AdaGC(), mixed)

    assert [row for row in after if any(row)] == run(AdaGC(), rows)


def test_parameter_that_was_zero_in_the_warm_up_trains_later() -> None:
    rows = noisy(100)
    rows[:, 0] = 0.0

    after = run(AdaGC(), [*rows, *noisy(300, seed=1)])

    assert min(row[0] for row in after[200:]) > 0


def test_tiny_warm_up_is_no_trap() -> None:
    rows = [[1e-30, 0.5, 0.5]] * 100 + [[0.1, 0.5, 0.5]] * 3000

    after = run(AdaGC(), rows)

    assert after[100][0] == pytest.approx(1e-4)
    assert after[-1][0] > 1e-3


def test_learned_by_name_whatever_the_order() -> None:
    rows = [dict(zip(NAMES, row, strict=True)) for row in noisy(200)]
    ours: State = {}
    theirs: State = {}

    for row in rows:
        backwards = clip(AdaGC(), dict(reversed(row.items())), theirs)
        assert clip(AdaGC(), row, ours) == pytest.approx(backwards, rel=1e-12)


def test_parameter_that_comes_later_has_a_warm_up_of_its_own() -> None:
    rows = noisy(300)
    state: State = {}
    for row in rows[:150]:
        clip(AdaGC(), dict(zip(NAMES[:2], row[:2], strict=True)), state)

    after = run(AdaGC(), rows[150:], state)

    totals = np.sqrt((rows[150:250] ** 2).sum(axis=1))
    assert [row[2] for row in after[:100]] == pytest.approx(
        (rows[150:250, 2] / np.maximum(totals, 1.0)).tolist()
    )
    assert state["0.AdaGC"]["seen"].tolist() == [300, 300, 150]


def test_missing_gradient_keeps_what_was_learned() -> None:
    state: State = {}
    run(AdaGC(), noisy(150), state)
    gamma = state["0.AdaGC"]["gamma"].clone()

    clip(AdaGC(), {"third": 1e-3, "first": 1e-3}, state)

    assert state["0.AdaGC"]["names"] == NAMES
    assert state["0.AdaGC"]["gamma"][1] == gamma[1]
    assert state["0.AdaGC"]["gamma"][2] == 0.98 * gamma[2] + (1 - 0.98) * 1e-3


def test_goes_on_where_it_was_saved() -> None:
    rows = noisy(300)
    state: State = {}

    first = run(AdaGC(), rows[:150], state)
    second = run(AdaGC(), rows[150:], copy.deepcopy(state))

    assert first + second == run(AdaGC(), rows)


def test_shards_learn_from_whole_norms() -> None:
    parameter = torch.ones(1)
    gradients = Gradients(
        [torch.tensor([3.0])], parameters=[parameter], whole=lambda norms: 2 * norms
    )

    _, after = apply([AdaGC()], gradients, {})

    assert after.tolist() == pytest.approx([1.0])
    assert gradients.tensors[0].tolist() == pytest.approx([3.0 / 6.0])


def test_thresholds_are_the_smallest_and_the_largest() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in "ab"]
    clipper = Clipper(parameters, AdaGC(1.5, lambda_abs=10.0, warmup=1))

    for _ in range(2):
        for parameter, norm in zip(parameters, (2.0, 4.0), strict=True):
            parameter.grad = torch.tensor([norm])
        clipper.clip()

    told = {key: float(value) for key, value in clipper.thresholds().items()}
    assert told == {"smallest": 1.5 * 2.0, "largest": 1.5 * 4.0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lambda_rel": 1.0}, "lambda_rel must be above 1, got 1.0"),
        ({"lambda_rel": math.nan}, "lambda_rel must be a positive number, got nan"),
        ({"lambda_abs": 0.0}, "lambda_abs must be a positive number, got 0.0"),
        ({"beta": 1.0}, "beta must be between 0 and 1, got 1.0"),
        ({"warmup": 0}, "warmup must be at least 1, got 0"),
    ],
)
def test_a_setting_out_of_range_is_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        AdaGC(**settings)
