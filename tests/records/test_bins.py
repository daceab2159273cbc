"""Steps share bins: what each bin keeps, and that nothing is lost."""

import math

import numpy as np
import pytest

from gradguard.records.bins import bin_starts, first_true, largest, shares, smallest

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("size", "bins", "starts"),
    [(7, 3, [0, 3, 6]), (4, 9, [0, 1, 2, 3]), (6, 3, [0, 2, 4]), (5, 4, [0, 2, 4])],
)
def test_all_bins_but_the_last_are_equally_wide(
    size: int, bins: int, starts: list[int]
) -> None:
    assert bin_starts(size, bins).tolist() == starts


def test_largest_of_a_bin_is_finite() -> None:
    values = np.array([1.0, INF, 3.0, NAN, -INF, NAN])

    assert largest(values, 3) == pytest.approx([1.0, 3.0, NAN], nan_ok=True)


def test_smallest_of_a_bin_is_finite() -> None:
    values = np.array([2.0, -INF, NAN, 3.0, 5.0])

    assert smallest(values, 3).tolist() == [2.0, 3.0, 5.0]


def test_first_true_of_a_bin_speaks_for_it() -> None:
    flags = np.array([False, True, True, False, False, False, True])

    # Bins of three: 0-2, 3-5, 6.
    assert first_true(flags, 3).tolist() == [1, 6]


def test_share_of_the_last_bin_is_of_its_own_steps() -> None:
    flags = np.array([True, False, True, True, True])

    assert shares(flags, 3).tolist() == [1 / 2, 2 / 2, 1 / 1]
