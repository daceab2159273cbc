"""Where runs are: behind links, below runs, called like what they are not, behind URLs."""

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from gradguard import GradGuard
from gradguard.errors import ConfigError
from gradguard.report.document import document
from gradguard.report.runs import Found, find_runs
from gradguard.report.view import View
from gradguard.tensorboard.reader import read_recordings, read_run
from tests.support.board import LOADERS, board, records, write
from tests.support.command_line import Call
from tests.support.trainers import Twenty, fit, trainer


def write_run(run: Path, *, steps: int = 3) -> Path:
    write(run, records(np.ones((steps, 2))))
    return run


def directories(found: Found) -> list[str]:
    return [run.directory for run in found.runs]


def labels(*paths: Path | str) -> list[str]:
    return [run.label for run in find_runs(paths).runs]


@pytest.mark.parametrize("load_fast", LOADERS, ids=["fast", "slow"])
def test_links_to_runs_are_followed_as_tensorboard_does(
    tmp_path: Path, load_fast: str
) -> None:
    for name in ("one", "two"):
        write_run(tmp_path / "store" / name / "version_0")
    tree = tmp_path / "tree"
    write_run(tree / "own")
    (tree / "a").symlink_to(tmp_path / "store" / "one")
    (tree / "b").symlink_to(Path("..") / "store" / "two" / "version_0")

    found = find_runs([tree])

    shown = ["a/version_0", "b", "own"]
    assert directories(found) == [str(tree / name) for name in shown]
    assert found.left_out == []
    with board(tree, load_fast=load_fast) as tensorboard:
        tensorboard.wait(lambda: sorted(tensorboard.runs()) == shown)


def test_link_is_as_good_as_the_directory(tmp_path: Path) -> None:
    write_run(tmp_path / "store" / "version_0")
    (tmp_path / "link").symlink_to(tmp_path / "store" / "version_0")

    assert read_run(tmp_path / "link").steps.tolist() == [0, 1, 2]
    assert directories(find_runs([tmp_path / "link"])) == [str(tmp_path / "link")]


def test_run_behind_several_links_is_reported_once_by_its_own_name(
    tmp_path: Path,
) -> None:
    run = write_run(tmp_path / "z" / "version_0")
    (tmp_path / "a").symlink_to(run)
    (tmp_path / "latest").symlink_to(tmp_path / "z")

    assert directories(find_runs([tmp_path])) == [str(run)]
    assert directories(find_runs([run, tmp_path / "a", tmp_path])) == [str(run)]


def test_links_in_circles_end(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs" / "version_0")
    (run / "up").symlink_to(tmp_path / "runs")
    (tmp_path / "runs" / "self").symlink_to("self")
    (run / "events.out.tfevents.9").symlink_to("events.out.tfevents.9")
    for one, other in (("x", "y"), ("y", "x")):
        (tmp_path / one).mkdir()
        (tmp_path / one / "to").symlink_to(tmp_path / other)

    assert directories(find_runs([tmp_path])) == [str(run)]
    assert len(read_run(run).steps) == 3


def test_links_to_event_files_are_files(tmp_path: Path) -> None:
    run = write_run(tmp_path / "store" / "version_0")
    copy = tmp_path / "picked"
    copy.mkdir()
    for file in run.glob("*tfevents*"):
        (copy / file.name).symlink_to(file)
    (copy / "events.out.tfevents.gone").symlink_to(tmp_path / "gone")

    assert len(read_run(copy).steps) == 3
    assert directories(find_runs([copy])) == [str(copy)]
    assert directories(find_runs([copy, run])) == [str(run)]
    assert directories(find_runs([tmp_path])) == [str(run)]


def test_directory_called_like_an_event_file_is_none(tmp_path: Path) -> None:
    run = write_run(tmp_path / "version_0")
    (run / "events.out.tfevents.backup").mkdir()
    below = write_run(run / "old_tfevents")
    beside = write_run(tmp_path / "tfevents" / "version_1", steps=4)
    os.mkfifo(run / "events.out.tfevents.pipe")

    found = find_runs([tmp_path])

    assert len(read_run(run).steps) == 3
    assert directories(found) == [str(beside), str(run), str(below)]
    assert found.left_out == []


def test_runs_called_before_and_after_are_runs(tmp_path: Path) -> None:
    outer = write_run(tmp_path / "x")
    inner = write_run(tmp_path / "x" / "before" / "before")
    alone = write_run(tmp_path / "after")

    found = find_runs([tmp_path])

    assert directories(found) == [str(alone), str(outer), str(inner)]
    # Of the two that the writer puts below each run nothing is said.
    assert found.left_out == []


def test_run_that_lies_where_another_has_its_scalars_is_found(tmp_path: Path) -> None:
    outer = write_run(tmp_path / "x")
    inner = write_run(tmp_path / "x" / "after")

    found = find_runs([tmp_path])

    assert directories(found) == [str(outer), str(inner)]


def test_hidden_directories_are_searched_as_tensorboard_does(tmp_path: Path) -> None:
    hidden = write_run(tmp_path / ".hidden" / "version_0")

    assert directories(find_runs([tmp_path])) == [str(hidden)]


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_directory_that_cannot_be_read_is_named_beside_runs(tmp_path: Path) -> None:
    write_run(tmp_path / "version_0")
    closed = tmp_path / "closed"
    closed.mkdir(0)

    [left_out] = find_runs([tmp_path]).left_out

    assert left_out == (str(closed), "cannot be read: Permission denied")


def test_home_is_meant_by_a_tilde(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "runs" / "version_0")
    monkeypatch.setenv("HOME", str(tmp_path))

    assert len(read_run("~/runs/version_0").steps) == 3
    assert len(read_run(Path("~/runs/version_0")).steps) == 3
    assert directories(find_runs(["~/runs"])) == [str(run)]


@pytest.fixture
def bucket() -> Iterator[str]:
    """A place in memory, which no other test knows of."""
    url = f"memory://{uuid.uuid4().hex}"
    yield url
    fsspec.filesystem("memory").rm(url, recursive=True)


def remote_files(bucket: str) -> set[str]:
    found = fsspec.filesystem("memory").find(bucket)
    return {str(path).split("/", 2)[2].partition("events.out")[0] for path in found}


def test_lightnings_loggers_over_memory_leave_nothing_on_the_local_disk(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    loggers = [
        TensorBoardLogger(f"{bucket}/logs", name="x", version=0),
        CSVLogger(f"{bucket}/csv", name="x", version=0),
    ]

    fit(tmp_path, GradGuard(), logger=loggers)

    assert list(tmp_path.iterdir()) == []
    run = "logs/x/version_0/"
    assert {run, f"{run}before/", f"{run}after/", "csv/x/version_0/metrics.csv"} <= (
        remote_files(bucket)
    )
    assert read_run(f"{bucket}/logs/x/version_0").steps.tolist() == list(range(20))


def test_runs_are_found_and_reported_behind_a_url(bucket: str, tmp_path: Path) -> None:
    for version in (0, 1):
        logger = TensorBoardLogger(bucket, name="x", version=version)
        fit(tmp_path, GradGuard(), logger=logger)

    found = find_runs([f"{bucket}/"])

    assert directories(found) == [f"{bucket}/x/version_{i}" for i in (0, 1)]
    assert [run.label for run in found.runs] == ["x/version_0", "x/version_1"]
    assert found.left_out == []
    content = json.loads(document(found, view=View()))
    assert content["runs"][0]["directory"] == f"{bucket}/x/version_0"


def test_run_behind_a_url_that_went_back_tells_its_living_branch(
    bucket: str, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "at20.ckpt"

    def train(max_epochs: int, *, resume: bool) -> Any:
        logger = TensorBoardLogger(bucket, None, "run", purge_step=20 * resume)
        runner = trainer(tmp_path, GradGuard(), logger=logger, max_epochs=max_epochs)
        runner.fit(Twenty(), ckpt_path=checkpoint if resume else None)
        return runner

    train(1, resume=False).save_checkpoint(checkpoint)
    train(3, resume=True)
    train(2, resume=True)

    [recording] = read_recordings(f"{bucket}/run").values()
    assert recording.records.steps.tolist() == list(range(40))
    assert recording.abandoned == ((20, 40),)


def test_checkpoints_follow_the_logger_into_memory(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    fit(
        tmp_path,
        GradGuard(),
        ModelCheckpoint(),
        logger=TensorBoardLogger(bucket, name="x", version=0),
        enable_checkpointing=True,
    )

    assert list(tmp_path.iterdir()) == []


def test_command_takes_the_url_of_a_file(gradguard: Call, tmp_path: Path) -> None:
    run = write_run(tmp_path / "with space" / "version_0")

    code, out, err = gradguard("report", f"file://{tmp_path}", "--json")

    assert (code, err) == (0, "")
    assert json.loads(out)["runs"][0]["directory"] == str(run)


def test_command_takes_a_url_of_memory(
    gradguard: Call, bucket: str, tmp_path: Path
) -> None:
    logger = TensorBoardLogger(bucket, name="x", version=0)
    fit(tmp_path, GradGuard(), logger=logger)

    code, out, _ = gradguard("report", bucket, "--json")

    assert code == 0
    assert json.loads(out)["runs"][0]["label"] == "x/version_0"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("memory://nowhere/at/all", "memory://nowhere/at/all does not exist"),
        ("nonsense://x", "nonsense://x cannot be read: Protocol not known: nonsense"),
    ],
)
def test_url_without_runs_is_refused(url: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        find_runs([url])


@pytest.mark.parametrize("place", ["nowhere", __file__, "memory://nowhere"])
def test_place_without_records_is_refused_by_its_name(place: str) -> None:
    with pytest.raises(ValueError, match=f"no records of gradguard in {place}: "):
        read_run(place)


def test_relative_path_is_reported_as_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "runs" / "version_0")
    monkeypatch.chdir(tmp_path)

    assert directories(find_runs(["runs"])) == [str(run)]
    assert directories(find_runs(["."])) == [str(run)]
    assert labels("runs/version_0") == ["runs/version_0"]
