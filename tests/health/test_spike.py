"""The finding of single steps far above the usual, on numbers and on a real run."""

import math
import re
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from gradguard import ClipNorm, GradGuard
from gradguard.health.diagnosis import diagnose
from gradguard.health.finding import Finding
from gradguard.health.threshold import suggest
from gradguard.records.outliers import outliers
from gradguard.records.recording import Recording, SavedStep
from gradguard.tensorboard.reader import read_recordings
from tests.support.modules import Net
from tests.support.recordings import recording
from tests.support.trainers import fit

Doubles = NDArray[np.float64]

CLIP = "ClipNorm(max_norm=1.0, per_parameter=False)"


def noise(steps: int, *, sd: float = 0.1, seed: int = 0) -> Doubles:
    """Totals as those of healthy training, around 1."""
    drawn: Doubles = np.exp(np.random.default_rng(seed).normal(0, sd, steps))
    return drawn


def spiking(at: dict[int, float], *, steps: int = 200, **options: Any) -> Recording:
    """Totals around 1, with some that are so many times larger."""
    totals = noise(steps)
    for step, times in at.items():
        totals[step] *= times
    return recording(totals[:, None], **options)


def found(of: Recording) -> dict[str, Finding]:
    return {finding.kind: finding for finding in diagnose(of)}


def one_by_one(values: list[float]) -> list[int]:
    """The rule as it is written down, by the textbook and step by step."""
    usual: list[float] = []
    pending: list[int] = []
    marked: list[int] = []
    for row, value in enumerate(values):
        if not 0 < value < math.inf:
            continue
        log = math.log(value)
        if len(usual) >= 64:
            mean, sd = statistics.fmean(usual), statistics.pstdev(usual)
            if log > mean + 6 * sd + math.log(4):
                pending.append(row)
                if len(pending) <= 10:
                    continue
                pending, usual = [], []
        marked, pending = marked + pending, []
        usual = [*usual, log][-128:]
    return marked + pending


values = st.lists(
    st.integers(0, 7).flatmap(
        lambda kind: (
            st.sampled_from([math.nan, math.inf, 0.0, -1.0, 1e30, 1e-30, 50.0, 5.0])
            if kind == 0
            else st.floats(0.5, 2)
        )
    ),
    min_size=70,
    max_size=300,
)


@settings(max_examples=30, deadline=None)
@given(values)
def test_outliers_are_those_of_the_rule_taken_step_by_step(drawn: list[float]) -> None:
    assert [one.row for one in outliers(np.array(drawn))] == one_by_one(drawn)


def test_usual_and_limit_are_those_of_the_window() -> None:
    totals = noise(200)
    totals[150] = 1000

    (one,) = outliers(totals)

    logs = np.log(totals[150 - 128 : 150])
    assert one.usual == pytest.approx(math.exp(logs.mean()))
    assert one.limit == pytest.approx(math.exp(logs.mean() + 6 * logs.std()) * 4)


def test_lasting_level_is_no_row_of_outliers() -> None:
    totals = noise(400)
    totals[200:] *= 100

    assert outliers(totals) == []


def test_slow_rise_is_none() -> None:
    assert outliers(noise(2000) * np.geomspace(1, 1e6, 2000)) == []


def test_one_nan_blinds_nobody() -> None:
    totals = noise(200)
    totals[[100, 150]] = math.nan, 1000

    assert [one.row for one in outliers(totals)] == [150]


def test_spike_is_told_with_its_step_and_how_far_it_is_above() -> None:
    finding = found(spiking({120: 278}))["spike"]

    usual = math.exp(np.log(noise(200)[:120]).mean())
    times = noise(200)[120] * 278 / usual
    assert finding.step == 120
    assert finding.severity == "warning"
    assert finding.numbers["times"] == pytest.approx(times, rel=1e-6)
    assert f"{times:.3g} x what was usual in the 128 steps before" in finding.text
    assert "Nothing clipped it." in finding.text


def test_parameters_that_carry_a_spike_are_named_largest_first() -> None:
    before = np.ones((200, 4)) * noise(200)[:, None]
    before[120] = [1, 900, 1, 500]

    finding = found(recording(before))["spike"]

    assert finding.parameter == "layer.1.weight"
    assert "100% of it in layer.1.weight and layer.3.weight" in finding.text


@pytest.mark.parametrize(
    ("threshold", "severity"), [(1.0, "note"), (2.0, "note"), (100.0, "warning")]
)
def test_clip_that_bounds_a_spike_makes_it_a_note(
    threshold: float, severity: str
) -> None:
    totals = noise(200)
    totals[120] = 500
    clipped = np.minimum(totals, threshold)

    finding = found(recording(totals[:, None], clipped[:, None], clip=CLIP))["spike"]

    assert finding.severity == severity
    assert f"The clip made it {threshold:.3g}" in finding.text
    assert finding.numbers["coefficient"] == pytest.approx(threshold / 500)


def test_spikes_that_gradguard_skipped_are_counted_and_are_a_note() -> None:
    totals = noise(200)
    totals[[120, 150]] = 500, 300
    after = totals.copy()
    after[[120, 150]] = -2

    findings = found(recording(totals[:, None], after[:, None]))

    assert findings["spike"].severity == "note"
    assert "gradguard kept it from the weights." in findings["spike"].text
    assert "gradguard skipped 2 of them." in findings["spike"].text
    assert "exploded" not in findings
    assert findings["refused"].text == (
        "gradguard skipped 2 of 200 steps: 2 with finite gradients, for a spike, the "
        "first at step 120."
    )


def test_skips_of_both_kinds_are_told_apart() -> None:
    totals = noise(200)
    totals[[100, 120]] = math.nan, 500
    after = totals.copy()
    after[[100, 120]] = -2

    assert found(recording(totals[:, None], after[:, None]))["refused"].text == (
        "gradguard skipped 2 of 200 steps: 1 for a non-finite gradient, the first at "
        "step 100 and 1 with finite gradients, for a spike, the first at step 120."
    )


def test_largest_of_several_leads_and_the_others_are_counted() -> None:
    heights = {100: 50.0, 110: 400.0, 120: 60.0, 130: 120.0, 140: 200.0}

    finding = found(spiking(heights))["spike"]

    assert (finding.step, finding.numbers["spikes"]) == (110, 5)
    assert re.findall(r"step (\d+)", finding.text) == ["110", "140", "130"]
    assert "and 2 more." in finding.text


def test_loss_around_a_spike_is_told() -> None:
    losses = [0.5] * 120 + [9.0, 2.0] + [0.5] * 78

    text = found(spiking({120: 100}, loss=losses))["spike"].text

    assert "The loss was 0.5 before it, 9 in it and 2 after it." in text


def test_growth_that_ends_in_nan_is_an_explosion_and_no_spike() -> None:
    totals = noise(110)
    totals[100:] = [10.0**k for k in range(1, 6)] + [math.nan] * 5

    findings = found(recording(totals[:, None]))

    assert "spike" not in findings
    assert findings["exploded"].step == 105


def test_spike_long_before_a_nan_is_told() -> None:
    totals = noise(200)
    totals[100], totals[150:] = 500, math.nan

    assert found(recording(totals[:, None]))["spike"].step == 100


@pytest.mark.parametrize("times", [1.5, 3.0])
def test_step_a_little_above_the_usual_is_none(times: float) -> None:
    assert "spike" not in found(spiking({120: times}))


def test_saved_step_is_run_again_by_the_line_shown() -> None:
    of = spiking({120: 500})
    saved = SavedStep(120, "/bad steps/bad-step-120-rank-0.pt")
    recordings = [of, Recording(of.records, saved_steps=(saved,))]

    lines = [found(one)["spike"].command for one in recordings]

    assert lines == [
        'GradGuard(on_spike="skip", dump_dir="bad-steps")',
        "gradguard replay '/bad steps/bad-step-120-rank-0.pt'",
    ]


def test_spike_behind_two_small_rises_is_no_explosion() -> None:
    totals = noise(200)
    totals[118:121] = 1.0, 1.1, 1.2
    totals[121] = 500

    findings = found(recording(totals[:, None]))

    assert findings["spike"].step == 121
    assert "exploding" not in findings


def test_threshold_suggested_bounds_the_spikes_and_nothing_else() -> None:
    totals = noise(200)
    totals[[120, 150]] = 500, 300

    suggestion = suggest(recording(totals[:, None]))

    others = np.delete(totals, [120, 150])
    assert suggestion.max_norm == pytest.approx(others.max(), rel=0.05)


class Spiking(Net):
    """One batch of two hundred is a thousand times as large."""

    @override
    def batches(self) -> list[Tensor]:
        x = torch.randn(200, 2, 4, generator=torch.manual_seed(1))
        x[150] *= 1000
        return list(x)

    @override
    def loss(self, x: Tensor) -> Tensor:
        y: Tensor = (self.first(x) - 1).square().mean()
        return y + self.second.weight.square().sum()


@pytest.mark.parametrize("clip", [None, ClipNorm(0.1)])
def test_bad_batch_of_a_real_run_is_told(tmp_path: Path, clip: ClipNorm | None) -> None:
    fit(tmp_path, GradGuard(clip), model=Spiking(lambda p: torch.optim.SGD(p, 1e-6)))

    finding = found(read_recordings(tmp_path / "run")[""])["spike"]

    assert (finding.step, finding.parameter) == (150, "first.weight")
    assert finding.severity == ("note" if clip else "warning")


@pytest.mark.filterwarnings("ignore:update skipped:UserWarning")
def test_bad_batch_that_was_skipped_is_told_with_the_line_that_runs_it_again(
    tmp_path: Path,
) -> None:
    guard = GradGuard(on_spike="skip", dump_dir=tmp_path)
    fit(tmp_path, guard, model=Spiking(lambda p: torch.optim.SGD(p, 1e-6)))

    findings = found(read_recordings(tmp_path / "run")[""])

    assert findings["spike"].severity == "note"
    assert "gradguard kept it from the weights." in findings["spike"].text
    line = f"gradguard replay {tmp_path / 'bad-step-150-rank-0.pt'}"
    assert findings["spike"].command == findings["refused"].command == line
