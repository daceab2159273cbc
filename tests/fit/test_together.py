"""Several GradGuards of one Trainer: what they ask for together, and what is refused."""

from pathlib import Path

import pytest

from gradguard import ClipNorm, ClipValue, GradGuard, Spike
from gradguard.fit.wanted import Wanted, together
from gradguard.tensorboard.reader import read_recordings, read_run
from tests.support.trainers import fit


def test_the_one_that_clips_clips_for_both(tmp_path: Path) -> None:
    fit(tmp_path, GradGuard(), GradGuard(ClipNorm(0.1)))

    assert read_run(tmp_path / "run").total_after.max() == pytest.approx(0.1, rel=1e-4)


def test_statistics_are_recorded_if_one_asks_for_them(tmp_path: Path) -> None:
    fit(tmp_path, GradGuard(ClipNorm(0.1)), GradGuard(layer_statistics=True))

    assert read_recordings(tmp_path / "run")[""].epochs is not None


def test_settings_that_differ_are_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"differ in clip: ClipNorm\(.*ClipValue\("):
        fit(tmp_path, GradGuard(ClipNorm(0.1)), GradGuard(ClipValue(0.1)))


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (Wanted(), Wanted(), Wanted()),
        (Wanted((ClipNorm(1.0),)), Wanted(), Wanted((ClipNorm(1.0),))),
        (Wanted(), Wanted((ClipNorm(1.0),)), Wanted((ClipNorm(1.0),))),
        (
            Wanted((ClipNorm(1.0),)),
            Wanted((ClipNorm(1.0),), every_n_steps=5),
            Wanted((ClipNorm(1.0),), every_n_steps=5),
        ),
        (
            Wanted(on_nonfinite="skip", max_consecutive_skips=3),
            Wanted(layer_statistics=True, max_scalars=0),
            Wanted(
                on_nonfinite="skip",
                max_consecutive_skips=3,
                layer_statistics=True,
                max_scalars=0,
            ),
        ),
        (
            Wanted(on_nonfinite="skip"),
            Wanted(on_spike=Spike(sigma=8)),
            Wanted(on_nonfinite="skip", on_spike=Spike(sigma=8)),
        ),
    ],
)
def test_each_setting_is_that_of_the_one_that_has_it(
    one: Wanted, other: Wanted, both: Wanted
) -> None:
    assert together([one, other]) == both


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        (
            Wanted((ClipNorm(1.0),)),
            Wanted((ClipNorm(2.0),)),
            r"clip: ClipNorm\(max_norm=1.0.* and ClipNorm\(max_norm=2.0",
        ),
        (
            Wanted(on_nonfinite="skip"),
            Wanted(on_nonfinite="raise"),
            "on_nonfinite: 'skip' and 'raise'",
        ),
        (
            Wanted(every_n_steps=2),
            Wanted(every_n_steps=3),
            "every_n_steps: 2 and 3",
        ),
    ],
)
def test_what_two_have_changed_differently_is_named(
    one: Wanted, other: Wanted, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        together([one, other])
