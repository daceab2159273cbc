"""What a fit says for itself, on stderr: the first bad step, and the verdict at the end."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from torch import Tensor
from typing_extensions import override

from gradguard import GradGuard
from gradguard.fit import herald, story
from gradguard.fit.story import Story
from gradguard.health.diagnosis import diagnose
from gradguard.records.records import Records
from gradguard.records.schema import Schema
from tests.support.board import records
from tests.support.modules import Net
from tests.support.trainers import Twenty, fit

BAD_STEP = 11


class Poisoned(Twenty):
    """Its loss is NaN at one batch of twenty, and so are the weights from there on."""

    @override
    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return loss * torch.nan if batch_idx == BAD_STEP else loss


class Healthy(Net):
    """Every parameter gets a gradient, of one size."""

    @override
    def batches(self) -> list[Tensor]:
        return Twenty().batches()


class Listener(Callback):
    """Notes what stderr has heard by the end of each batch."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys
        self.heard: list[str] = []

    @override
    def on_train_batch_end(self, *args: Any) -> None:
        self.heard.append(_ours(self.capsys.readouterr().err))


def _ours(stderr: str) -> str:
    return "\n".join(line for line in stderr.splitlines() if "gradguard" in line)


def test_fit_ends_with_what_where_since_when_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    fit(Path(), GradGuard(), model=Poisoned())

    said = capsys.readouterr().err
    end = said[said.index("gradguard: error: ") :].splitlines()
    assert len(end) <= 6
    assert f"at step {BAD_STEP} (NaN in " in " ".join(end)
    assert '  Do:   GradGuard(on_nonfinite="skip", dump_dir="bad-steps")' in end
    assert end[-1].startswith("  See:  gradguard report run")


def test_first_bad_step_is_one_line_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listener = Listener(capsys)

    fit(tmp_path, GradGuard(), listener, model=Poisoned(), log_every_n_steps=20)

    [line] = [one for one in listener.heard if one]
    assert listener.heard.index(line) == BAD_STEP
    assert line.startswith(f"gradguard: step {BAD_STEP}: NaN in ")
    assert "(loss nan)" in line


def test_verdict_is_told_where_there_is_no_logger(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.warns(UserWarning, match="nowhere to write to"):
        fit(tmp_path, GradGuard(), model=Poisoned(), logger=False)

    said = capsys.readouterr().err
    assert "gradguard: error: " in said
    assert "gradguard report" not in said


def test_verdict_is_told_of_a_fit_that_an_error_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Dying(Poisoned):
        @override
        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            if batch_idx == BAD_STEP + 3:
                raise RuntimeError("no more")
            return super().training_step(batch, batch_idx)

    with pytest.raises(RuntimeError, match="no more"):
        fit(tmp_path, GradGuard(), model=Dying())

    assert capsys.readouterr().err.count("gradguard: error: ") == 1


@pytest.mark.parametrize("asked", ["argument", "variable"])
def test_nothing_is_said_on_request(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    asked: str,
) -> None:
    guards = [GradGuard(verdict=False)] if asked == "argument" else []
    if asked == "variable":
        monkeypatch.setenv("GRADGUARD", "verdict=false")

    fit(tmp_path, *guards, model=Poisoned())

    assert _ours(capsys.readouterr().err) == ""
    assert list((tmp_path / "run").glob("events*"))


def test_environment_variable_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GRADGUARD", "1")

    fit(tmp_path, model=Poisoned())

    assert capsys.readouterr().err.count("gradguard: error: ") == 1


@pytest.mark.parametrize("bar", [TQDMProgressBar, RichProgressBar])
def test_beside_a_bar_a_healthy_fit_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bar: type[Callback]
) -> None:
    fit(tmp_path, GradGuard(), bar(), model=Healthy(), enable_progress_bar=True)

    out, err = capsys.readouterr()
    [line] = [one for one in err.splitlines() if "gradguard" in one]
    assert line.startswith("gradguard: Nothing found in 20 steps of ")
    assert "gradguard" not in out


def test_without_a_bar_a_healthy_fit_says_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(tmp_path, GradGuard(), model=Healthy())

    assert _ours(capsys.readouterr().err) == ""


def test_trouble_with_words_is_one_warning_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("words fail")

    monkeypatch.setattr(herald, "verdict", broken)
    model = Twenty()
    with pytest.warns(UserWarning, match="no verdict .ZeroDivisionError: words fail"):
        fit(tmp_path, GradGuard(), model=model)

    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_every_fit_of_one_callback_has_its_own_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    guard = GradGuard()
    for name in ("first", "second"):
        fit(tmp_path / name, guard, model=Poisoned())

    assert capsys.readouterr().err.count("gradguard: error: ") == 2


def test_long_fit_keeps_its_start_its_peak_and_its_first_bad_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(story, "_MOST", 4096)
    before = np.random.default_rng(0).lognormal(0, 0.1, (20_000, 2))
    before[7001] = 500.0
    before[9001:] = np.nan
    told = Story()

    for start in range(0, len(before), 50):
        told.add(Schema(("a", "b")), _part(before, start))

    kept = told.recording()
    assert kept.records.before.size <= 4096
    assert {0, 7001, 9001} <= set(kept.records.steps.tolist())
    assert next(found.kind for found in diagnose(kept)) == "nonfinite-gradient"


def test_short_fit_is_kept_whole() -> None:
    before = np.random.default_rng(0).lognormal(0, 0.1, (100, 2)).astype(np.float32)
    told = Story()

    for start in (0, 50):
        told.add(Schema(("a", "b")), _part(before, start))

    assert np.array_equal(told.recording().records.before, before)


def _part(before: Any, start: int) -> Records:
    return records(before[start : start + 50], first=start, names=("a", "b"))


def test_callback_shows_what_it_was_given() -> None:
    from gradguard import ClipNorm

    assert repr(GradGuard()) == "GradGuard()"
    clip = ClipNorm(5.0)
    assert repr(GradGuard(clip=clip, verdict=False)) == (
        f"GradGuard(clip={clip!r}, verdict=False)"
    )
