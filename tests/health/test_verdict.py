"""One verdict: each cause once, with a line that can be copied, in six lines at most."""

import ast
import json
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradguard.health import verdict as module
from gradguard.health.diagnosis import diagnose
from gradguard.health.finding import Finding, Kind
from gradguard.health.remedy import clip_line
from gradguard.health.telling import MOST_LINES, alarm, told
from gradguard.health.verdict import verdict
from gradguard.records.clips import NOTHING, OURS, ClipData, PolicyData, by_trainer
from gradguard.records.recording import ClipInForce, Recording, SavedStep
from tests.support.recordings import any_recording, recording

NAN, INF = float("nan"), float("inf")
OURS_AT_FIVE = ClipData(OURS, (PolicyData("norm", "ClipNorm", 5.0),))


def explosion(steps: int = 30, *, clip: ClipData = NOTHING) -> Recording:
    """Totals from 200 on that grow tenfold a step and end in Inf."""
    norms = 200 * 10.0 ** np.arange(steps)
    before = np.outer(norms, [0.6, 0.8])
    before[10:] = INF
    told_of = recording(before, names=("first.weight", "last.weight"))
    return Recording(told_of.records, (ClipInForce(0, clip),))


def planted_nan(steps: int = 40, at: int = 20) -> Recording:
    before = np.ones((steps, 3))
    before[at:, 1] = NAN
    return recording(before, names=("a.weight", "b.weight", "c.weight"))


def test_explosion_is_one_cause_and_the_rest_belongs_to_it() -> None:
    [cause] = verdict(explosion()).causes

    assert (cause.kind, cause.severity, cause.step) == ("exploded", "error", 10)
    assert [one.kind for one in cause.consequences] == ["exploding", "unclipped"]
    assert "10^3-fold" in cause.why or "1000-fold" in cause.why


@pytest.mark.parametrize(
    ("clip", "line"),
    [
        (NOTHING, "Trainer(gradient_clip_val=2)"),  # 1 % of 200
        (by_trainer(50.0, "norm"), "Trainer(gradient_clip_val=2)"),
        (
            by_trainer(0.5, "value"),
            'Trainer(gradient_clip_val=2, gradient_clip_algorithm="norm")',
        ),
        (OURS_AT_FIVE, "GradGuard(clip=ClipNorm(2))"),
    ],
)
def test_line_to_copy_is_for_whoever_clips_today(clip: ClipData, line: str) -> None:
    [cause] = verdict(explosion(clip=clip)).causes

    assert cause.do == line
    assert cause.advice == "1 % of the first total, 200; try 0.4 and 10, too."


def test_clip_that_did_not_hold_is_not_suggested_again() -> None:
    [cause] = verdict(explosion(clip=by_trainer(1.0, "norm"))).causes

    assert cause.do == "Trainer(gradient_clip_val=0.2)"
    assert cause.advice == "A fifth of 1, which does not hold the run."


def test_of_several_optimizers_the_trainer_clips_none() -> None:
    [cause] = verdict(explosion(), optimizer="generator").causes

    assert cause.do == "GradGuard(clip=ClipNorm(2))"


def test_planted_nan_is_told_with_step_and_parameter_and_no_clip() -> None:
    [cause] = verdict(planted_nan()).causes

    assert (cause.kind, cause.step, cause.parameter) == (
        "nonfinite-gradient",
        20,
        "b.weight",
    )
    assert "NaN in b.weight" in cause.text
    assert cause.do == 'GradGuard(on_nonfinite="skip", dump_dir="bad-steps")'
    assert "Nothing grew before" in cause.why


def test_saved_step_can_be_run_again() -> None:
    norms = planted_nan().records
    of = Recording(norms, saved_steps=(SavedStep(20, "bad steps/20.pt"),))

    [cause] = verdict(of).causes

    assert cause.command == "gradguard replay 'bad steps/20.pt'"
    assert "  Run:  gradguard replay 'bad steps/20.pt'" in told(verdict(of))


def test_healthy_run_has_nothing_but_what_was_looked_at() -> None:
    of = verdict(recording(np.ones((40, 3))))

    assert (of.causes, of.worst, of.severity) == ((), None, None)
    assert told(of) == ["Nothing found in 40 steps of 3 parameters."]


def test_single_step_and_parameter_are_in_the_singular() -> None:
    assert verdict(recording([[1.0]])).looked_at == "1 step of 1 parameter"


def test_two_causes_are_told_worst_first() -> None:
    spiked = np.random.default_rng(0).lognormal(0, 0.05, (400, 3))
    spiked[180, 0] = 500
    spiked[340:, 1] = NAN

    of = verdict(recording(spiked))

    assert [cause.kind for cause in of.causes] == ["nonfinite-gradient", "spike"]
    assert of.causes[1].step == 180
    assert told(of, report="gradguard report x")[-1].endswith("(1 warning more)")


@settings(max_examples=100, deadline=None)
@given(any_recording())
def test_every_finding_is_told_once_or_is_no_news(of: Recording) -> None:
    found = diagnose(of)

    causes = verdict(of, found=found).causes

    kinds = [kind for one in causes for kind in (one.kind, *_kinds(one.consequences))]
    assert len(kinds) == len(set(kinds))
    silent = {one.kind for one in found} - {*kinds}
    assert silent <= {"unclipped", "clip-never"}
    assert all(one.kind in kinds for one in found if one.serious)


@settings(max_examples=100, deadline=None)
@given(any_recording(), st.integers(60, 120))
def test_six_lines_say_it_at_any_width(of: Recording, width: int) -> None:
    said = verdict(of)

    lines = told(said, width=width, report="gradguard report runs/version_0")

    assert 1 <= len(lines) <= MOST_LINES
    for line in lines:
        copied = line.lstrip().startswith(("Do:", "Run:", "See:"))
        assert copied or len(line) <= width, line
        assert not (copied and "GradGuard" in line and "..." in line)


@settings(max_examples=60, deadline=None)
@given(any_recording())
def test_verdict_is_json_and_its_line_is_code(of: Recording) -> None:
    said = verdict(of)

    json.dumps(said.to_json())
    for cause in said.causes:
        assert "..." not in cause.do
        if cause.do:
            ast.parse(cause.do)


def test_each_kind_belongs_to_causes_that_are_no_part_of_it() -> None:
    table: dict[Kind, tuple[Kind, ...]] = module._PART_OF

    assert {*table} | {one for parts in table.values() for one in parts} <= {
        *get_args(Kind)
    }
    for head, parts in table.items():
        assert head not in parts
        assert len(parts) == len(set(parts))


def test_clip_line_keeps_the_digits_of_the_number() -> None:
    assert clip_line(0.00012, NOTHING) == "Trainer(gradient_clip_val=0.00012)"


def test_long_names_leave_room_for_what_to_do() -> None:
    long = tuple(f"{'model.encoder.block.' * 6}{i}.weight" for i in range(3))
    before = np.full((40, 3), NAN)
    before[:20] = 1.0

    lines = told(verdict(recording(before, names=long)), report="gradguard report x")

    assert len(lines) <= MOST_LINES
    assert any(line.startswith("  Do:   GradGuard(") for line in lines)
    assert "*.block.model.encoder.block.0.weight" in " ".join(lines)


@pytest.mark.parametrize("bad", [NAN, INF])
def test_alarm_names_step_value_parameter_and_loss(bad: float) -> None:
    before = np.ones((8, 2))
    before[5:, 1] = bad
    loss = np.linspace(2.0, 1.3, 8)
    of = recording(before, loss=loss, names=("a.weight", "b.weight"))

    word = "Inf" if bad == INF else "NaN"
    assert (
        alarm(of.records, loss_known=True) == f"step 5: {word} in b.weight (loss 1.5)"
    )


def test_no_alarm_while_all_is_finite_or_refused() -> None:
    before = np.ones((8, 2))
    before[5, 1] = NAN
    after = before.copy()
    after[5] = -2.0

    for of in (recording(np.ones((8, 2))), recording(before, after)):
        assert alarm(of.records, loss_known=True) is None


def test_alarm_tells_no_loss_that_nobody_recorded() -> None:
    of = recording([[1.0], [NAN]], loss=NAN, names=("a.weight",))

    assert alarm(of.records, loss_known=False) == "step 1: NaN in a.weight"


def _kinds(findings: tuple[Finding, ...]) -> list[Kind]:
    return [one.kind for one in findings]
