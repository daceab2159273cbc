"""Each rule of the diagnosis on numbers, and what holds whatever the numbers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.nn.utils import clip_grad_norm_

from gradguard.health.diagnosis import diagnose
from gradguard.health.finding import Finding
from gradguard.health.threshold import suggest
from gradguard.records.recording import Recording
from tests.support.recordings import any_recording, recording

NAN, INF = float("nan"), float("inf")

positive = st.floats(2.0**-40, 2.0**40, width=32)
moderate = arrays(np.float32, (12, 6), elements=positive)


def found(of: Recording) -> dict[str, Finding]:
    return {finding.kind: finding for finding in diagnose(of)}


def evidence(of: Recording) -> dict[str, tuple[str, str | None, int | None]]:
    """What is found about the shape of the gradients, not about their size."""
    return {
        kind: (finding.severity, finding.parameter, finding.step)
        for kind, finding in found(of).items()
        if kind in ("vanishing", "collapsed", "exploding", "exploding-at-init", "dead")
    }


@settings(max_examples=150, deadline=None)
@given(any_recording())
def test_every_recording_gets_sentences(of: Recording) -> None:
    findings = diagnose(of)

    for finding in findings:
        assert finding.text.endswith(".")
        assert finding.advice.endswith(".")
        assert finding.step is None or finding.step in of.records.steps
    ranks = [["error", "warning", "note"].index(one.severity) for one in findings]
    assert ranks == sorted(ranks)
    assert suggest(of).reason.endswith(".")


@settings(max_examples=50, deadline=None)
@given(moderate, st.integers(-20, 20))
def test_unit_of_the_norms_does_not_matter(
    before: np.ndarray[tuple[int, int], np.dtype[np.float32]], exponent: int
) -> None:
    scaled = before * np.float32(2.0**exponent)

    assert evidence(recording(scaled)) == evidence(recording(before))


@settings(max_examples=50, deadline=None)
@given(moderate, st.permutations(range(1, 12)))
def test_vanishing_does_not_depend_on_the_order_of_later_steps(
    before: np.ndarray[tuple[int, int], np.dtype[np.float32]], order: list[int]
) -> None:
    shuffled = before[[0, *order]]

    assert evidence(recording(shuffled)).get("vanishing") == evidence(
        recording(before)
    ).get("vanishing")


def test_growth_is_seen_at_its_third_rise() -> None:
    calm = [[1.0, 1.0]] * 5
    growth = [[1.0, 3.0], [1.0, 9.0], [1.0, 27.0]]

    finding = found(recording(calm + growth))["exploding"]

    assert (finding.step, finding.parameter) == (7, "layer.1.weight")
    assert finding.numbers["growth"] == pytest.approx((730 / 2) ** 0.5)


@pytest.mark.parametrize(
    "totals",
    [
        [1, 1, 1, 100, 1, 1],  # one bad batch
        [100, 1, 3, 9, 27, 81],  # noise below what has been
        [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],  # slow
    ],
    ids=["spike", "small", "slow"],
)
def test_what_does_not_run_away_is_no_explosion(totals: list[float]) -> None:
    assert "exploding" not in found(recording([[total] for total in totals]))


def test_growth_that_a_clip_bounded_is_a_note() -> None:
    before = np.array([[1.0], [4.0], [16.0], [64.0]])
    clipped = recording(
        before,
        np.minimum(before, 1),
        clip="ClipNorm(max_norm=1.0, per_parameter=False)",
    )

    assert found(clipped)["exploding"].severity == "note"
    assert "clip-too-high" not in found(clipped)


def test_first_nonfinite_gradients_are_named() -> None:
    before = [[1.0, 1.0, 1.0], [1.0, NAN, 1.0], [NAN, NAN, NAN]]

    finding = found(recording(before, loss=[1, 1, NAN]))["exploded"]

    assert (finding.step, finding.parameter) == (1, "layer.1.weight")
    assert finding.severity == "error"
    assert "NaN in layer.1.weight), and on 2 of 3 steps" in finding.text
    assert "still finite" in finding.text


def test_loss_that_went_first_is_told() -> None:
    text = found(recording([[1.0], [1.0], [INF]], loss=[1, INF, NAN]))["exploded"].text

    assert "Inf in layer.0.weight" in text
    assert "The loss was not finite from step 1 on." in text


@pytest.mark.parametrize("first", [0, 4], ids=["at once", "later"])
def test_nonfinite_gradient_that_nothing_announced_calls_for_no_clip(
    first: int,
) -> None:
    one = recording([[3.0]] * first + [[NAN]] * 4, loss=[1.0] * first + [NAN] * 4)

    findings = found(one)

    assert findings["nonfinite-gradient"].severity == "error"
    assert findings["nonfinite-gradient"].step == first
    assert "Nothing grew before." in findings["nonfinite-gradient"].text
    assert "exploded" not in findings
    assert findings["unclipped"].severity == "note"
    assert suggest(one).max_norm is None


@pytest.mark.parametrize(
    ("totals", "losses"),
    [([3, 3, 3, 3, 40], [1, 1, 1, 1, 1, NAN]), ([3] * 5, [1, 1, 1, 1, 1, 40])],
    ids=["total", "loss"],
)
def test_nonfinite_gradient_after_growth_is_an_explosion(
    totals: list[float], losses: list[float]
) -> None:
    findings = found(recording([[one] for one in [*totals, INF]], loss=losses))

    assert "exploded" in findings
    assert "nonfinite-gradient" not in findings


def test_suggestion_after_a_refused_bad_batch_is_none() -> None:
    after = [[1.0], [1.0], [1.0], [-2.0], [1.0]]

    suggestion = suggest(recording([[1.0], [1.0], [1.0], [NAN], [1.0]], after))

    assert suggestion.max_norm is None
    assert "no clip prevents that" in suggestion.reason


def test_loss_that_was_never_known_is_not_called_finite() -> None:
    at_once = found(recording([[NAN]] * 3, loss=NAN))["nonfinite-gradient"]
    later = found(recording([[1.0], [1.0], [NAN]], loss=NAN))["exploded"]

    for finding in (at_once, later):
        assert "NaN from the start, or not recorded." in finding.text


def test_loss_that_is_infinite_from_the_start_is_found_at_the_first_step() -> None:
    finding = found(recording([[1.0]] * 4, loss=[INF, 1, INF, 1]))["nonfinite-loss"]

    assert finding.step == 0


def test_a_run_of_one_step_is_told_in_the_singular() -> None:
    assert found(recording([[1.0]]))["unclipped"].text.endswith("0 of 1 step.")


def test_loss_near_the_largest_float32_is_judged_without_a_warning() -> None:
    assert "overshoot" not in found(recording([[1.0]] * 12, loss=3e38))


def test_gradient_that_recovers_is_a_warning() -> None:
    assert found(recording([[1.0], [NAN], [1.0]]))["exploded"].severity == "warning"


def test_loss_that_is_not_finite_over_finite_gradients_is_found() -> None:
    finding = found(recording([[1.0]] * 4, loss=[1, 1, INF, 1]))["nonfinite-loss"]

    assert finding.step == 2


def test_loss_that_was_never_told_is_no_finding() -> None:
    assert "nonfinite-loss" not in found(recording([[1.0]] * 4, loss=NAN))


def test_search_of_a_gradient_scaler_is_no_alarm() -> None:
    searching, steady = [[INF]] * 3, [[1.0]] * 9

    findings = diagnose(recording(searching + steady, [[-1.0]] * 3 + steady))

    assert {finding.severity for finding in findings} == {"note"}


def test_step_that_torch_freezes_is_found() -> None:
    weight = torch.zeros(3, requires_grad=True)
    weight.grad = torch.full((3,), 1e20)
    before = weight.grad.double().norm().item()
    clip_grad_norm_([weight], 1.0)
    after = weight.grad.double().norm().item()

    finding = found(recording([[before]], [[after]], clip="Trainer("))["frozen"]

    assert finding.severity == "error"
    assert "1 of 1 step" in finding.text


def test_both_vanishing_and_exploding_are_found_in_one_network() -> None:
    profile = 10.0 ** np.array([6, 5, 4, 3, 2, 1, 0, 1, 2, 3, 4])

    findings = found(recording([profile] * 3))

    assert findings["exploding-at-init"].parameter == "layer.0.weight"
    assert findings["exploding-at-init"].numbers["ratio"] == pytest.approx(
        1e6, rel=1e-4
    )
    assert findings["vanishing"].parameter == "layer.5.weight"
    assert findings["vanishing"].numbers["ratio"] == pytest.approx(1e-2, rel=1e-4)


def test_one_small_layer_does_not_vanish() -> None:
    profile = [1, 1, 1, 1e-3, 1, 1, 1, 1, 1, 1]

    assert "vanishing" not in found(recording([profile] * 3))


def test_gradient_that_is_always_zero_is_dead() -> None:
    finding = found(recording([[0.0, 1.0]] * 20))["dead"]

    assert finding.parameter == "layer.0.weight"
    assert "100%" in finding.text


def test_gradient_of_a_loss_of_zero_is_not_dead() -> None:
    assert "dead" not in found(recording([[1.0, 1.0]] * 3 + [[0.0, 0.0]] * 97))


def test_one_parameter_that_collapses_is_a_warning() -> None:
    before = [[1.0, 1.0, 1.0]] * 5 + [[1.0, 1.0, 1e-6]] * 15

    finding = found(recording(before))["collapsed"]

    assert (finding.severity, finding.parameter) == ("warning", "layer.2.weight")


def test_run_that_converges_does_not_collapse() -> None:
    before = np.geomspace(1.0, 1e-8, 100)[:, None] * np.ones(3)

    assert "collapsed" not in found(recording(before))


def test_loss_that_leaps_and_stays_is_an_overshoot() -> None:
    steps = [[1.0], [1.0], [9.0], *[[1.0]] * 17]

    finding = found(recording(steps, loss=[3] * 3 + [290] * 17))["overshoot"]

    assert finding.step == 2


def test_loss_that_comes_back_is_no_overshoot() -> None:
    loss = [3] * 3 + [290] + [1] * 16

    assert "overshoot" not in found(recording([[1.0]] * 20, loss=loss))


def test_negative_loss_is_a_note() -> None:
    assert found(recording([[1.0]], loss=-1))["negative-loss"].severity == "note"


def test_parameters_out_of_reach_are_named() -> None:
    findings = found(
        recording(
            [[1.0, -1.0, 1.0]],
            names=("used", "unused", "unnamed.2"),
            unoptimized=("head.weight",),
        )
    )

    assert findings["no-gradient"].parameter == "unused"
    assert findings["unoptimized"].parameter == "head.weight"
    assert findings["foreign"].parameter == "unnamed.2"


def test_clip_by_hand_is_not_called_no_clip() -> None:
    assert "unclipped" not in found(recording([[9.0]] * 3, [[1.0]] * 3))


def test_no_suggestion_without_a_finite_start() -> None:
    suggestion = suggest(recording([[NAN]] * 5))

    assert suggestion.max_norm is None
    assert "first total is nan" in suggestion.reason
