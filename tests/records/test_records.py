"""What follows from the norms: totals, coefficients, and which steps clipped."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from gradguard.records.intervals import interval_scalars
from gradguard.records.records import Records, from_stored, thinned, to_stored


def records(before: list[list[float]], after: list[list[float]]) -> Records:
    norms: NDArray[np.float32] = np.stack([before, after], axis=-1).astype(np.float32)
    steps = np.arange(len(norms))
    names = tuple("abcdef"[: norms.shape[1]])
    return from_stored(names, steps, norms, np.zeros(len(norms), np.float32))


def test_total_is_the_root_of_the_sum_of_squares() -> None:
    run = records([[3.0, 4.0]], [[0.6, 0.8]])

    assert run.total_before.tolist() == [math.sqrt(3**2 + 4**2)]
    assert run.total_after == pytest.approx([1.0])
    assert run.coefficient == pytest.approx([1 / 5])


def test_a_missing_gradient_counts_for_nothing() -> None:
    run = records([[3.0, -1.0, 4.0]], [[3.0, -1.0, 4.0]])

    assert run.total_before.tolist() == [5.0]
    assert np.isnan(run.before[0, 1])
    assert run.missing.tolist() == [[False, True, False]]
    assert not run.nonfinite.any()


def test_the_gradient_that_is_nonfinite_is_told_from_the_missing_one() -> None:
    run = records([[1.0, math.nan, -1.0]], [[1.0, math.nan, -1.0]])

    assert run.nonfinite_gradients.tolist() == [[False, True, False]]


def test_the_gradient_that_was_clipped_is_told_from_the_others() -> None:
    run = records([[2.0, 2.0, 2.0]], [[1.0, 2.0, 2.0 * (1 - 1e-7)]])

    assert run.clipped_gradients.tolist() == [[True, False, False]]


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_a_step_is_nonfinite_when_one_gradient_is(norm: float) -> None:
    run = records([[1.0, norm], [1.0, 1.0]], [[1.0, norm], [1.0, 1.0]])

    assert run.nonfinite.tolist() == [True, False]
    assert not math.isfinite(run.total_before[0])


def test_coefficient_is_one_when_all_gradients_are_zero() -> None:
    assert records([[0.0]], [[0.0]]).coefficient.tolist() == [1.0]


def test_the_clip_fired_where_a_norm_fell() -> None:
    run = records([[1.0, 2.0], [1.0, 2.0]], [[1.0, 1.9], [1.0, 2.0]])

    assert run.clipped.tolist() == [True, False]
    assert run.clip_fraction == 1 / 2


def test_the_clip_did_not_fire_at_exactly_the_threshold() -> None:
    # torch multiplies by 3 / (3 + 1e-6) where the norm is exactly max_norm = 3.
    run = records([[3.0]], [[3.0 * 3 / (3 + 1e-6)]])

    assert run.clip_fraction == 0.0


def test_overflow_is_a_finite_total_beyond_float32_arithmetic() -> None:
    run = records([[2e19], [1e19], [math.inf]], [[1.0], [1.0], [1.0]])

    assert run.overflow.tolist() == [True, False, False]


def test_step_that_gradguard_refused_over_finite_norms_is_a_skip_alone() -> None:
    run = records([[1.0], [500.0], [2.0]], [[1.0], [-2.0], [2.0]])

    scalars = interval_scalars(run)

    assert run.refused.tolist() == [False, True, False]
    assert not run.nonfinite.any()
    assert not run.skipped.any()
    assert scalars["gradguard/skipped_steps"] == 1
    assert scalars["gradguard/nonfinite_steps"] == 0
    assert scalars["gradguard/total_before_max"] == 2
    assert scalars["gradguard/coefficient_min"] == 1


def test_clip_fraction_of_no_steps_is_nan() -> None:
    assert math.isnan(records([[1.0]], [[1.0]])[:0].clip_fraction)


def test_storing_keeps_missing_and_nan_apart() -> None:
    stored = np.array([[[1, 1], [-1, -1], [math.nan, math.nan]]], np.float32)

    run = from_stored(("a", "b", "c"), np.array([0]), stored, np.zeros(1, np.float32))

    np.testing.assert_array_equal(to_stored(run), stored)


def test_thinning_keeps_every_nth_the_largest_and_the_first_non_finite_step() -> None:
    totals = [[1.0]] * 20
    totals[7], totals[13], totals[14] = [9.0], [math.nan], [math.nan]

    kept = thinned(records(totals, totals), 5)

    assert kept.steps.tolist() == [0, 5, 7, 10, 13, 15]
