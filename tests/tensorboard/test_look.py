"""The view that each finding opens."""

from typing import get_args

import numpy as np
import pytest

from gradguard.health.finding import Finding, Kind
from gradguard.records.records import Records
from gradguard.tensorboard.page.look import look
from gradguard.tensorboard.page.query import MOMENTS, SCALES
from tests.support.board import records


def finding(
    kind: Kind, *, step: int | None = 300, parameter: str | None = None
) -> Finding:
    return Finding(kind, "warning", "", "", step, parameter)


@pytest.fixture
def thousand() -> Records:
    return records(np.ones((1000, 3)))


@pytest.mark.parametrize("kind", get_args(Kind))
def test_view_of_every_kind_is_one_the_page_has(kind: Kind, thousand: Records) -> None:
    seen = look(finding(kind, parameter="layer.1.weight"), thousand)

    assert seen["parameter"] == "layer.1.weight"
    assert seen.get("start", 0) <= seen["step"] <= seen.get("stop", 999)
    assert seen.get("moment", "before") in MOMENTS
    assert seen.get("scale", "relative") in SCALES


@pytest.mark.parametrize(
    ("kind", "step", "window"),
    [
        ("exploded", 300, (0, 600)),
        ("exploded", 3, (0, 20)),
        ("nonfinite-gradient", 300, (250, 310)),
        ("nonfinite-gradient", 998, (948, 999)),
        ("refused", 300, (250, 350)),
    ],
)
def test_window_holds_what_led_to_the_finding(
    kind: Kind, step: int, window: tuple[int, int], thousand: Records
) -> None:
    seen = look(finding(kind, step=step), thousand)

    assert (seen["start"], seen["stop"]) == window


def test_window_of_all_steps_is_none(thousand: Records) -> None:
    assert look(finding("exploded", step=700), thousand) == {
        "scale": "absolute",
        "step": 700,
    }


def test_step_without_a_finite_norm_gives_way_to_the_last_before() -> None:
    norms = np.ones((40, 3))
    norms[9:] = np.nan

    assert look(finding("exploded", step=9), records(norms))["step"] == 8


def test_parameter_that_was_not_recorded_is_none(thousand: Records) -> None:
    assert "parameter" not in look(finding("foreign", parameter="gone"), thousand)
