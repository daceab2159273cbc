"""Runs that went back: resumed, restarted, purged. Whoever reads them tells the same steps."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.event_pb2 import Event, SessionLog

from gradguard import GradGuard
from gradguard.records.records import from_stored
from gradguard.records.schema import Schema
from gradguard.report.document import document
from gradguard.report.runs import find_runs
from gradguard.report.view import View
from gradguard.tensorboard.history import Dated, living, merged
from gradguard.tensorboard.join import Write
from gradguard.tensorboard.reader import read_recordings, read_run
from gradguard.tensorboard.writer import EventWriter
from tests.support.board import LOADERS, board, records, some_epochs
from tests.support.event_files import events, new_event_file
from tests.support.trainers import Twenty, trainer

both_loaders = pytest.mark.parametrize("load_fast", LOADERS, ids=["fast", "slow"])

Session = tuple[int | None, float, Sequence[range]]
"""The step it is opened at, if at one; the norm it writes; the steps of each write."""


def write_session(run: Path, session: Session, *, clip: str = "") -> None:
    start, norm, spans = session
    with new_event_file(run) as sink:
        if start is not None:
            opened = SessionLog(status=SessionLog.START)
            sink.add_event(Event(wall_time=time.time(), step=start, session_log=opened))
        writer = EventWriter(sink, run, max_scalars=50)
        for span in spans:
            part = records(np.full((len(span), 2), norm), first=span.start)
            scalars = {"gradguard/total_before": norm}
            writer.write(Schema(part.names, unoptimized=(clip,)), part, scalars)
        writer.close()


def spans(start: int, stop: int, size: int = 10) -> list[range]:
    return [range(i, min(i + size, stop)) for i in range(start, stop, size)]


# Sessions, then the norm at each step that counts, and what is left out.
HISTORIES: dict[
    str, tuple[Sequence[Session], Sequence[float], list[tuple[int, int]]]
] = {
    "goes on": (
        [(None, 1, spans(0, 20)), (None, 2, spans(20, 30))],
        [1] * 20 + [2] * 10,
        [],
    ),
    "resumed from earlier": (
        [(None, 1, spans(0, 40)), (None, 2, spans(20, 50))],
        [1] * 20 + [2] * 30,
        [(20, 20)],
    ),
    "resumed from earlier, ends before": (
        [(None, 1, spans(0, 80)), (None, 2, spans(20, 40))],
        [1] * 20 + [2] * 20,
        [(20, 60)],
    ),
    "in the middle of a write": (
        [(None, 1, spans(0, 50, 50)), (None, 2, spans(20, 30))],
        [1] * 20 + [2] * 10,
        [(20, 30)],
    ),
    "purged in the middle of a write": (
        [(0, 1, spans(0, 50, 50)), (25, 2, spans(25, 30))],
        [1] * 25 + [2] * 5,
        [(25, 25)],
    ),
    "purged before it goes on": (
        [(0, 1, spans(0, 50)), (15, 2, spans(20, 30))],
        [1] * 15 + [2] * 10,
        [(15, 35)],
    ),
    "purged behind where it goes on": (
        [(0, 1, spans(0, 50)), (45, 2, spans(20, 30))],
        [1] * 20 + [2] * 10,
        [(20, 30)],
    ),
    "only the second declares": (
        [(None, 1, spans(0, 50)), (20, 2, spans(20, 40))],
        [1] * 20 + [2] * 20,
        [(20, 30)],
    ),
    "started over": (
        [(None, 1, spans(0, 50)), (None, 2, spans(0, 20))],
        [2] * 20,
        [(0, 50)],
    ),
    "three times": (
        [
            (0, 1, spans(0, 30)),
            (None, 2, spans(20, 60)),
            (None, 3, spans(10, 15)),
            (12, 4, spans(12, 18, 3)),
        ],
        [1] * 10 + [3] * 2 + [4] * 6,
        [(20, 10), (10, 50), (12, 3)],
    ),
    "first step": (
        [(None, 1, [range(1)]), (None, 2, [range(3)])],
        [2] * 3,
        [(0, 1)],
    ),
}
histories = pytest.mark.parametrize("name", HISTORIES)


def write_history(run: Path, name: str, *, clips: bool = False) -> None:
    sessions, _, _ = HISTORIES[name]
    for number, session in enumerate(sessions):
        write_session(run, session, clip=str(number) if clips else "")


@histories
@pytest.mark.parametrize("clips", [False, True], ids=["one schema", "one each"])
def test_living_branch_counts(tmp_path: Path, name: str, clips: bool) -> None:
    write_history(tmp_path, name, clips=clips)

    [recording] = read_recordings(tmp_path).values()

    _, norms, abandoned = HISTORIES[name]
    assert recording.records.before[:, 0].tolist() == norms
    assert (np.diff(recording.records.steps) > 0).all()
    assert [tuple(branch) for branch in recording.abandoned] == abandoned


@both_loaders
@pytest.mark.parametrize("clips", [False, True], ids=["one schema", "one each"])
def test_page_and_report_tell_the_same(
    tmp_path: Path, load_fast: str, clips: bool
) -> None:
    logdir = tmp_path / "runs"
    for name in HISTORIES:
        write_history(logdir / name, name, clips=clips)

    with board(logdir, load_fast=load_fast) as tensorboard:
        tensorboard.wait(lambda: len(tensorboard.runs()) == len(HISTORIES))
        for name, (_, norms, _) in HISTORIES.items():
            [run] = find_runs([logdir / name]).runs
            read = run.recording.records
            query = {"run": name, "start": 0, "stop": 10**6, "bins": 1000}
            tensorboard.wait(
                lambda query=query, norms=norms: (  # type: ignore[misc]  # bound early
                    len(tensorboard.ask("totals", **query)["before"]) == len(norms)
                )
            )
            totals = tensorboard.ask("totals", **query)
            assert totals["steps"] == read.steps.tolist(), name
            assert totals["before"] == pytest.approx(
                [norm * np.sqrt(2) for norm in norms]
            )
            summary = tensorboard.ask("summary", run=name)
            assert summary["left_out"] == run.recording.left_out, name


def test_scalars_of_tensorboard_end_where_the_records_do(tmp_path: Path) -> None:
    sessions: list[Session] = [(0, 1, spans(0, 80)), (20, 2, spans(20, 40))]
    for session in sessions:
        write_session(tmp_path, session)

    for run in (tmp_path, tmp_path / "before", tmp_path / "after"):
        accumulator = events(run)
        [tag] = [
            tag
            for tag in accumulator.Tags()["scalars"]
            if tag in {"gradguard/total_before", "gradients/layer.0.weight"}
        ]
        shown = [(event.step, event.value) for event in accumulator.Scalars(tag)]
        assert shown == [(9, 1), (19, 1), (29, 2), (39, 2)]


def test_session_that_wrote_nothing_makes_void_what_it_declares(tmp_path: Path) -> None:
    write_session(tmp_path, (0, 1, spans(0, 30)))
    write_session(tmp_path, (12, 2, []))

    [recording] = read_recordings(tmp_path).values()

    assert recording.records.steps.tolist() == list(range(12))
    assert recording.left_out == (
        "18 steps of a branch that was abandoned at step 12 are left out."
    )


def test_run_of_which_nothing_counts_has_no_steps(tmp_path: Path) -> None:
    write_session(tmp_path, (0, 1, spans(0, 30)))
    write_session(tmp_path, (0, 2, []))

    assert read_run(tmp_path).before.shape == (0, 2)


@both_loaders
def test_statistics_of_an_abandoned_epoch_are_left_out(
    tmp_path: Path, load_fast: str
) -> None:
    run = tmp_path / "runs" / "run"
    for start, first, stops in ((0, -1, (20, 40, 60)), (20, 1, (40,))):
        with new_event_file(run) as sink:
            opened = SessionLog(status=SessionLog.START)
            sink.add_event(Event(wall_time=time.time(), step=start, session_log=opened))
            writer = EventWriter(sink, run, max_scalars=0)
            epoch = first
            for stop in stops:
                part = records(np.ones((20, 2)), first=stop - 20)
                schema = Schema(part.names)
                writer.write(schema, part, {})
                last = max(epoch, 0)
                ended = some_epochs(part.names, first=epoch, last=last)
                writer.write_epochs(schema, ended, stop)
                epoch = last + 1
            writer.close()

    [recording] = read_recordings(run).values()
    assert recording.epochs is not None
    assert recording.epochs.epochs.tolist() == [-1, 0, 1]
    with board(run.parent, load_fast=load_fast) as tensorboard:
        tensorboard.wait(
            lambda: (
                tensorboard.runs() == ["run"]
                and tensorboard.ask("summary", run="run")["stop"] == 39
            )
        )
        query = {"run": "run", "rows": "0", "statistic": "weight_sd"}
        assert tensorboard.ask("epochs", **query)["epochs"] == [-1, 0, 1]


def test_spike_of_an_abandoned_interval_is_left_out_though_no_step_stands_there(
    tmp_path: Path,
) -> None:
    for steps, since in (([0, 10, 20, 25], 0), ([30], 21)):
        with new_event_file(tmp_path) as sink:
            writer = EventWriter(sink, tmp_path, max_scalars=0)
            part = from_stored(
                ("w",),
                np.array(steps),
                np.ones((len(steps), 1, 2), np.float32),
                np.zeros(len(steps), np.float32),
            )
            writer.write(Schema(("w",)), part, {}, since=since)
            writer.close()

    assert read_run(tmp_path).steps.tolist() == [0, 10, 20, 30]


def test_optimizers_go_back_each_for_itself(tmp_path: Path) -> None:
    for stops in ({"a": 40, "b": 20}, {"a": 30, "b": 30}):
        with new_event_file(tmp_path) as sink:
            writer = EventWriter(sink, tmp_path, max_scalars=0)
            for optimizer, stop in stops.items():
                part = records(np.ones((stop - 10, 1)), first=10)
                writer.write(Schema(part.names, optimizer), part, {})
            writer.close()

    abandoned = {
        optimizer: recording.abandoned
        for optimizer, recording in read_recordings(tmp_path).items()
    }
    assert abandoned == {"a": ((10, 30),), "b": ((10, 10),)}


def test_clip_of_an_abandoned_branch_is_not_told(tmp_path: Path) -> None:
    write_session(tmp_path, (None, 1, spans(0, 20)), clip="kept")
    write_session(tmp_path, (None, 2, spans(20, 40)), clip="dead")
    write_session(tmp_path, (None, 3, spans(20, 30)), clip="last")

    [recording] = read_recordings(tmp_path).values()

    assert recording.unoptimized == ("last",)
    assert recording.abandoned == ((20, 20),)


def test_parameters_of_an_abandoned_branch_are_not_told(tmp_path: Path) -> None:
    for names in (("old",), ("new",)):
        with new_event_file(tmp_path) as sink:
            writer = EventWriter(sink, tmp_path, max_scalars=0)
            part = records(np.ones((5, 1)), names=names)
            writer.write(Schema(names), part, {})
            writer.close()

    assert read_run(tmp_path).names == ("new",)


def test_report_says_what_is_left_out(tmp_path: Path) -> None:
    write_history(tmp_path, "resumed from earlier")

    found = find_runs([tmp_path])

    [run] = json.loads(document(found, view=View()))["runs"]
    assert run["abandoned"] == [{"step": 20, "steps": 20}]
    assert found.runs[0].recording.left_out == (
        "20 steps of a branch that was abandoned at step 20 are left out."
    )


def test_clock_that_goes_back_does_not_change_the_order() -> None:
    def event(wall_time: float, first: int) -> Dated:
        return Dated(
            wall_time, first, Write(Schema(("w",)), np.arange(first, first + 5))
        )

    one = [event(100.0, 0), event(90.0, 5), event(110.0, 10)]
    other = [event(95.0, 0), event(105.0, 15)]

    assert [entry.step for entry in merged([one])] == [0, 5, 10]
    assert living(merged([one])).abandoned == ()
    assert [entry.step for entry in merged([one, other])] == [0, 0, 5, 15, 10]


@pytest.mark.parametrize("purge", [None, 20], ids=["resumed", "purged"])
def test_training_goes_on_from_an_earlier_checkpoint_in_the_same_directory(
    tmp_path: Path, purge: int | None
) -> None:
    checkpoint = tmp_path / "at20.ckpt"

    def train(max_epochs: int, *, resume: bool) -> Trainer:
        start = purge if resume else None if purge is None else 0
        logger = TensorBoardLogger(tmp_path, None, "run", purge_step=start)
        runner = trainer(tmp_path, GradGuard(), logger=logger, max_epochs=max_epochs)
        runner.fit(Twenty(), ckpt_path=checkpoint if resume else None)
        return runner

    train(1, resume=False).save_checkpoint(checkpoint)
    train(4, resume=True)
    train(2, resume=True)

    [recording] = read_recordings(tmp_path / "run").values()
    assert recording.records.steps.tolist() == list(range(40))
    assert recording.abandoned == ((20, 60),)
    for moment in ("before", "after"):
        starts = opened_at(tmp_path / "run" / moment)
        assert starts == ([] if purge is None else [0, 20, 20])


def opened_at(run: Path) -> list[int]:
    """At which steps sessions were opened in a run."""
    files = map(str, run.glob("*tfevents*"))
    return sorted(
        event.step
        for file in files
        for event in EventFileLoader(file).Load()
        if event.session_log.status == SessionLog.START
    )
