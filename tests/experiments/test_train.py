"""Running an experiment: what comes back, what is on disk, what the table says."""

import contextlib
import io
import math
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from rich.console import Console

from gradguard.cli.summary import show
from gradguard.errors import ConfigError
from gradguard.experiments.directory import ClaimingLogger
from gradguard.experiments.resolve import resolve
from gradguard.experiments.run import Outcome, run
from gradguard.health.verdict import verdict
from gradguard.tensorboard.reader import read_run
from tests.support.command_line import started
from tests.support.processes import wait_until


def trained(
    log_dir: Path | str,
    *assignments: str,
    config: str,
    resume: Path | str | None = None,
) -> Outcome:
    experiment = resolve(
        config=config,
        assignments=["trainer.accelerator=cpu", *assignments],
        values={"log_dir": str(log_dir)},
    )
    outcome = run(experiment, resume=None if resume is None else str(resume))
    assert outcome is not None  # a single process is of rank zero
    return outcome


def printed(outcome: Outcome, *, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    show(outcome, console)
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


@pytest.fixture(scope="module")
def diverged(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    log_dir = tmp_path_factory.mktemp("runs")
    return trained(log_dir, "trainer.max_epochs=2", config="mlp-exploding")


@pytest.fixture(scope="module")
def clipped(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    log_dir = tmp_path_factory.mktemp("runs")
    return trained(log_dir, "trainer.max_epochs=2", config="srn-cured")


def test_run_gives_metrics_of_both_sets(clipped: Outcome) -> None:
    assert clipped.train.keys() == clipped.test.keys() == {"loss", "accuracy"}
    assert all(0 <= value < math.inf for value in clipped.train.values())


def test_run_keeps_every_step(clipped: Outcome) -> None:
    assert clipped.records.steps.tolist() == list(range(2 * 5))
    assert clipped.records.clip_fraction == 1.0
    assert clipped.records.total_after.max() <= 5.0001
    assert clipped.first_nonfinite_loss is None


def test_run_leaves_its_records(clipped: Outcome) -> None:
    run = read_run(clipped.run_dir)

    assert run.steps.tolist() == clipped.records.steps.tolist()


def test_run_leaves_a_checkpoint(clipped: Outcome) -> None:
    assert (clipped.run_dir / "checkpoints" / "last.ckpt").is_file()


def test_run_leaves_an_experiment_that_is_its_own(clipped: Outcome) -> None:
    written = clipped.run_dir / "experiment.yaml"

    assert resolve(config=str(written)) == clipped.experiment


def test_runs_of_one_experiment_stand_side_by_side(tmp_path: Path) -> None:
    outcomes = [trained(tmp_path, "trainer.max_steps=1", config="srn") for _ in "ab"]

    assert [outcome.run_dir.name for outcome in outcomes] == ["version_0", "version_1"]


def claimed(runs: Path, start: Barrier) -> str:
    logger = ClaimingLogger(runs, name="srn")
    start.wait()
    return Path(logger.log_dir).name


def test_loggers_that_start_together_claim_a_version_each(tmp_path: Path) -> None:
    together = 8
    start = Barrier(together)

    with ThreadPoolExecutor(together) as pool:
        versions = list(pool.map(claimed, [tmp_path] * together, [start] * together))

    assert sorted(versions) == [f"version_{i}" for i in range(together)]
    assert {path.name for path in (tmp_path / "srn").iterdir()} == {*versions}


def test_what_is_called_like_the_next_version_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "srn").mkdir()
    (tmp_path / "srn" / "version_0").touch()

    assert claimed(tmp_path, Barrier(1)) == "version_1"


def test_trainings_that_start_together_write_a_run_each(tmp_path: Path) -> None:
    options = ("--config", "srn", "--log-dir", tmp_path, "--set", "trainer.max_steps=1")
    processes = [started("train", *options) for _ in "ab"]

    said = [process.communicate()[1] for process in processes]

    assert [process.returncode for process in processes] == [0, 0], said
    for version in ("version_0", "version_1"):
        assert read_run(tmp_path / "srn" / version).steps.tolist() == [0]


def test_directory_of_home_and_of_a_variable_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    for log_dir in ("~/runs", "$HOME/runs", f"file://{tmp_path}/runs"):
        outcome = trained(log_dir, "trainer.max_steps=1", config="srn")
        assert outcome.run_dir.parent == tmp_path / "runs" / "srn"

    again = trained(
        "~/runs",
        "trainer.max_steps=2",
        config="srn",
        resume="~/runs/srn/version_0/checkpoints/last.ckpt",
    )
    assert again.records.steps.tolist() == [1]
    assert list(tmp_path.iterdir()) == [tmp_path / "runs"]


def test_log_dir_that_is_elsewhere_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ConfigError, match=r"'memory://runs' is not on this machine"):
        trained("memory://runs", config="srn")

    assert not list(tmp_path.iterdir())


def test_same_seed_gives_the_same_gradients(clipped: Outcome, tmp_path: Path) -> None:
    again = trained(tmp_path, "trainer.max_epochs=2", config="srn-cured")

    assert (again.records.before == clipped.records.before).all()


def test_other_seed_gives_other_gradients(clipped: Outcome, tmp_path: Path) -> None:
    other = trained(tmp_path, "seed=1", "trainer.max_steps=1", config="srn-cured")

    assert (other.records.before[0] != clipped.records.before[0]).all()


def test_diverged_run_is_an_outcome(diverged: Outcome) -> None:
    step = diverged.first_nonfinite_loss

    assert step is not None
    assert 4 <= step <= 20
    assert all(math.isnan(value) for value in diverged.test.values())
    assert diverged.records.steps.tolist() == list(range(2 * 16))


def test_table_names_the_step_at_which_the_loss_diverged(diverged: Outcome) -> None:
    facts = " ".join(printed(diverged).split())

    assert f"non-finite loss from step {diverged.first_nonfinite_loss}" in facts
    assert "clipping none" in facts
    assert "% of steps" not in facts


def test_table_sums_up_the_total_before(clipped: Outcome) -> None:
    totals = sorted(clipped.records.total_before)
    first, middle = clipped.records.total_before[0], (totals[4] + totals[5]) / 2

    assert (
        f"{first:.4g} first, {middle:.4g} median, {totals[-1]:.4g} largest"
    ) in printed(clipped)


def test_verdict_stands_above_the_tables(diverged: Outcome, clipped: Outcome) -> None:
    said = verdict(diverged.recording).worst
    assert said is not None
    lines = printed(diverged).splitlines()
    assert lines[0].startswith(f"  error: {said.text[:40]}")
    [do] = [line for line in lines if line.startswith("    Do:")]
    assert do.endswith(f" --clip-norm {said.max_norm:g}")

    assert verdict(clipped.recording).text in printed(clipped)


def test_table_says_that_lightning_clipped(tmp_path: Path) -> None:
    outcome = trained(
        tmp_path,
        "trainer.gradient_clip_val=5",
        "trainer.max_steps=3",
        config="srn",
    )

    facts = " ".join(printed(outcome).split())

    assert "clipping norm 5, by Lightning" in facts
    assert "clipped 100.0% of steps" in facts


def test_table_fits_80_columns_and_cuts_nothing(tmp_path: Path) -> None:
    log_dir = tmp_path / ("deep" * 20)
    outcome = trained(log_dir, "trainer.max_steps=1", config="mlp-norm-value")

    *table, report, command = printed(outcome).splitlines()

    assert max(map(len, table)) <= 80
    assert str(outcome.run_dir) in "".join(line.strip() for line in table)
    assert report == f"gradguard report {outcome.run_dir}"
    assert command == f"tensorboard --logdir {log_dir}"


def test_resume_goes_on_where_the_checkpoint_was_made(
    clipped: Outcome, tmp_path: Path
) -> None:
    checkpoint = clipped.run_dir / "checkpoints" / "last.ckpt"

    resumed = trained(
        tmp_path, "trainer.max_epochs=3", config="srn-cured", resume=checkpoint
    )

    assert resumed.records.steps.tolist() == list(range(2 * 5, 3 * 5))
    assert checkpoint.exists()


@pytest.mark.parametrize(
    ("config", "assignment", "sentence"),
    [
        ("mlp", "seed=0", "is of another model: cell.U differs"),
        ("srn", "model.optimizer=adam", "is of another optimizer"),
        ("srn", "trainer.max_epochs=2", "trainer.max_epochs 2 leaves nothing to train"),
        ("srn", "trainer.max_steps=10", "trainer.max_steps 10 leaves nothing to train"),
    ],
)
def test_checkpoint_of_another_run_is_refused(
    clipped: Outcome, tmp_path: Path, config: str, assignment: str, sentence: str
) -> None:
    checkpoint = clipped.run_dir / "checkpoints" / "last.ckpt"

    with pytest.raises(ConfigError, match=sentence):
        trained(tmp_path, assignment, config=config, resume=checkpoint)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_checkpoint_cut_short_is_refused(
    clipped: Outcome, tmp_path: Path, share: float
) -> None:
    content = (clipped.run_dir / "checkpoints" / "last.ckpt").read_bytes()
    cut = tmp_path / "cut.ckpt"
    cut.write_bytes(content[: int(share * len(content))])

    with pytest.raises(ConfigError, match=r"cut\.ckpt' is corrupt"):
        trained(tmp_path / "runs", config="srn-cured", resume=cut)

    assert not (tmp_path / "runs").exists()


def interrupt(process: subprocess.Popen[str]) -> str:
    """Press Ctrl-C until it is heeded; Python drops one that lands in a destructor."""
    for _ in range(5):
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=20)[1]
    process.kill()
    raise AssertionError("the process does not heed Ctrl-C")


def test_model_for_which_there_is_no_room_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="model is too large: can't allocate memory"):
        trained(tmp_path, "model.width=1000000000000", config="mlp")


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_recorded(tmp_path: Path) -> None:
    options = ("--max-epochs", 100000, "--log-dir", tmp_path)
    process = started("train", "--config", "srn-cured", *options)
    run_dir = tmp_path / "srn-cured" / "version_0"
    wait_until((run_dir / "checkpoints" / "last.ckpt").exists, process)

    err = interrupt(process)

    steps = len(read_run(run_dir).steps)
    assert process.returncode == 130
    assert err == (
        f"gradguard: interrupted after {steps} steps, recorded in {run_dir}\n"
    )
