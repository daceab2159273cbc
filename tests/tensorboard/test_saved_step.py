"""Where a bad step is saved, on its way into a run and out again."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from typing_extensions import override

from gradguard import GradGuard, NonFiniteGradientError
from gradguard.health.diagnosis import diagnose
from gradguard.records.recording import Recording
from gradguard.tensorboard.reader import read_recordings
from tests.support.board import LOADERS, board
from tests.support.trainers import Twenty, trainer

BAD = 7
DUMP = f"bad-step-{BAD}-rank-0.pt"
pytestmark = pytest.mark.filterwarnings("ignore:update skipped:UserWarning")


class Breaking(Twenty):
    """One batch has no gradient that is finite."""

    bad = BAD

    @override
    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return loss * float("nan") if batch_idx == self.bad else loss


def trained(path: Path, action: Any = "skip", **options: Any) -> Trainer:
    guard = GradGuard(on_nonfinite=action, dump_dir=path / "bad steps")
    runner = trainer(path, guard, **options)
    runner.fit(Breaking())
    return runner


def of(path: Path) -> Recording:
    return read_recordings(path / "run")[""]


def command(recording: Recording) -> str:
    (finding,) = [one for one in diagnose(recording) if one.kind == "refused"]
    return finding.command


def test_run_knows_where_its_bad_step_is(tmp_path: Path) -> None:
    trained(tmp_path)

    ((step, file),) = of(tmp_path).saved_steps
    assert (step, file) == (BAD, str(tmp_path / "bad steps" / DUMP))
    assert Path(file).exists()
    assert command(of(tmp_path)) == f"gradguard replay '{file}'"


def test_run_that_ended_at_its_bad_step_knows_too(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteGradientError):
        trained(tmp_path, "raise")

    assert [saved.step for saved in of(tmp_path).saved_steps] == [BAD]


def test_run_that_saved_none_shows_how_to(tmp_path: Path) -> None:
    trainer(tmp_path, GradGuard(on_nonfinite="skip")).fit(Breaking())

    assert of(tmp_path).saved_steps == ()
    assert command(of(tmp_path)) == (
        'GradGuard(on_nonfinite="skip", dump_dir="bad-steps")'
    )


def test_relative_directory_is_found_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    guard = GradGuard(on_nonfinite="skip", dump_dir="saved")
    trainer(tmp_path, guard).fit(Breaking())

    ((_, file),) = of(tmp_path).saved_steps

    assert file == str(tmp_path / "saved" / DUMP)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended")
@pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path.")
def test_abandoned_branch_takes_its_saved_step_along(tmp_path: Path) -> None:
    save = ModelCheckpoint(tmp_path / "saved", every_n_train_steps=5, save_top_k=-1)
    guard = GradGuard(on_nonfinite="skip", dump_dir=tmp_path / "bad steps")
    trainer(tmp_path, guard, save, enable_checkpointing=True).fit(Breaking())
    assert of(tmp_path).saved_steps

    early = tmp_path / "saved/epoch=0-step=5.ckpt"
    again = trainer(tmp_path, GradGuard())
    again.fit(Twenty(), ckpt_path=early, weights_only=False)

    assert of(tmp_path).saved_steps == ()


@pytest.mark.parametrize("load_fast", LOADERS, ids=["fast", "slow"])
def test_page_shows_the_line_that_runs_the_step_again(
    tmp_path: Path, load_fast: str
) -> None:
    trained(tmp_path / "runs")

    with board(tmp_path / "runs", load_fast=load_fast) as served:
        served.wait(lambda: served.runs() == ["run"])
        verdict = served.ask("summary", run="run")["verdict"]

    assert verdict["command"] == command(of(tmp_path / "runs"))
