"""Event files: what the writer writes, TensorBoard's loader and our reader read."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from gradguard import ClipNorm
from gradguard.clipping.spec import as_data
from gradguard.records.intervals import interval_scalars
from gradguard.records.records import Records, from_stored
from gradguard.records.schema import Schema
from gradguard.tensorboard import tags
from gradguard.tensorboard.reader import read_run
from gradguard.tensorboard.writer import EventWriter
from tests.support.event_files import events, new_event_file

NAMES = ("first.weight", "first.bias", "a/b c.\N{GREEK SMALL LETTER BETA}")


def some_records(
    steps: range, names: tuple[str, ...] = NAMES, offset: float = 0.0
) -> Records:
    shape = (len(steps), len(names), 2)
    norms = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    norms += np.float32(offset)
    loss = np.asarray(steps, np.float32) / np.float32(8)
    return from_stored(names, np.asarray(steps, np.int64), norms, loss)


def write(
    logdir: Path, *parts: Records, max_scalars: int = 50, optimizer: str = ""
) -> None:
    with new_event_file(logdir) as sink:
        writer = EventWriter(sink, logdir, max_scalars)
        for records in parts:
            schema = Schema(records.names, optimizer)
            writer.write(schema, records, interval_scalars(records))
        writer.close()


def test_reader_gives_back_what_was_written(tmp_path: Path) -> None:
    first, second = some_records(range(5)), some_records(range(5, 8), offset=100)

    write(tmp_path, first, second)

    run = read_run(tmp_path)
    assert run.names == NAMES
    assert run.steps.tolist() == list(range(8))
    np.testing.assert_array_equal(run.before, np.vstack([first.before, second.before]))
    np.testing.assert_array_equal(run.after, np.vstack([first.after, second.after]))
    np.testing.assert_array_equal(run.loss, np.arange(8) / 8)


def test_tensorboard_finds_the_tensors_under_the_plugin(tmp_path: Path) -> None:
    records = some_records(range(5))
    schema = Schema(NAMES)

    write(tmp_path, records)

    accumulator = events(tmp_path)
    norms_tag = schema.tag(tags.NORMS)
    assert norms_tag in accumulator.PluginTagToContent(tags.PLUGIN)
    content = accumulator.PluginTagToContent(tags.PLUGIN)[norms_tag]
    assert Schema.decode(content) == schema
    (event,) = accumulator.Tensors(norms_tag)
    assert event.step == 0
    assert [dim.size for dim in event.tensor_proto.tensor_shape.dim] == [5, 3, 2]


def test_scalars_sum_up_the_interval() -> None:
    norms = np.array([[[3, 3]], [[8, 4]], [[5, 5]], [[np.nan, np.nan]]], np.float32)
    records = from_stored(("w",), np.arange(4), norms, np.zeros(4, np.float32))

    scalars = interval_scalars(records[:3])

    assert scalars == {
        "gradguard/total_before": 5.0,
        "gradguard/total_before_max": 8.0,
        "gradguard/total_after": 5.0,
        "gradguard/coefficient_min": 4 / 8,
        "gradguard/clip_fraction": pytest.approx(1 / 3),
        "gradguard/nonfinite_steps": 0.0,
        "gradguard/skipped_steps": 0.0,
        "gradguard/amp_skipped": 0.0,
    }
    assert interval_scalars(records)["gradguard/nonfinite_steps"] == 1.0


def test_scalars_per_parameter_lie_in_the_runs_before_and_after(tmp_path: Path) -> None:
    records = some_records(range(3))

    write(tmp_path, records)

    for run, norms in (("before", records.before), ("after", records.after)):
        accumulator = events(tmp_path / run)
        for name, norm in zip(NAMES, norms[-1], strict=True):
            (event,) = accumulator.Scalars(f"gradients/{name}")
            assert (event.step, event.value) == (2, norm)


def test_no_scalars_per_parameter_above_the_limit(tmp_path: Path) -> None:
    write(tmp_path, some_records(range(3)), max_scalars=len(NAMES) - 1)

    assert [path.is_dir() for path in tmp_path.iterdir()] == [False]


def test_last_write_of_a_step_wins(tmp_path: Path) -> None:
    write(tmp_path, some_records(range(10)))
    resumed = some_records(range(6, 12), offset=100)
    write(tmp_path, resumed)

    run = read_run(tmp_path)

    assert run.steps.tolist() == list(range(12))
    np.testing.assert_array_equal(run.before[6:], resumed.before)


def test_parameters_of_a_changed_list_keep_their_columns(tmp_path: Path) -> None:
    fewer = some_records(range(2), names=NAMES[:2])
    more = some_records(range(2, 4), names=NAMES[::-1])

    write(tmp_path, fewer, more)

    run = read_run(tmp_path)
    assert run.names == NAMES[::-1]
    assert run.missing[:2].tolist() == [[True, False, False]] * 2
    np.testing.assert_array_equal(run.before[:2, ::-1], add_missing(fewer.before))
    np.testing.assert_array_equal(run.before[2:], more.before)


def add_missing(norms: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.pad(norms, [(0, 0), (0, 1)], constant_values=np.nan)


def test_record_cut_short_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, some_records(range(5)), some_records(range(5, 10)), max_scalars=0)
    (file,) = tmp_path.iterdir()

    file.write_bytes(file.read_bytes()[:-20])

    assert read_run(tmp_path).steps.tolist() == list(range(5))


def test_several_optimizers_are_read_by_name(tmp_path: Path) -> None:
    write(tmp_path, some_records(range(3)), max_scalars=0, optimizer="optimizer_0")
    write(tmp_path, some_records(range(5)), max_scalars=0, optimizer="optimizer_1")

    assert len(read_run(tmp_path, "optimizer_1").steps) == 5
    with pytest.raises(
        ValueError, match=r"one of 'optimizer_0', 'optimizer_1' .* got None"
    ):
        read_run(tmp_path)


def test_a_directory_without_records_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"no records of gradguard in {tmp_path}"):
        read_run(tmp_path)


def test_schemas_that_differ_have_tags_that_differ() -> None:
    schemas = [
        Schema(("a", "b")),
        Schema(("b", "a")),
        Schema(("a", "b"), optimizer="optimizer_1"),
        Schema(("a", "b"), clip=as_data([ClipNorm(5.0)])),
    ]

    assert len({schema.tag(tags.NORMS) for schema in schemas}) == len(schemas)


def cpu_seconds(act: Callable[[], object]) -> float:
    start = time.process_time()
    act()
    return time.process_time() - start


def test_reader_is_five_times_as_fast_as_the_loader_of_tensorboard(
    tmp_path: Path,
) -> None:
    names = tuple(f"layer.{i}.weight" for i in range(1000))
    parts = [some_records(range(50 * i, 50 * i + 50), names) for i in range(25)]
    write(tmp_path / "all", *parts, max_scalars=0)
    write(tmp_path / "fifth", *parts[:5], max_scalars=0)

    ours = cpu_seconds(lambda: read_run(tmp_path / "all"))  # 10 MB
    theirs = 5 * cpu_seconds(lambda: events(tmp_path / "fifth"))

    assert 5 * ours < theirs


def test_the_writer_of_torch_takes_the_events(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    experiment = SummaryWriter(str(tmp_path))
    sink = experiment._get_file_writer()  # type: ignore[no-untyped-call]
    EventWriter(sink, tmp_path, 0).write(Schema(NAMES), some_records(range(4)), {})
    experiment.add_scalar("loss", torch.tensor(1.0), 3)
    experiment.close()

    assert read_run(tmp_path).steps.tolist() == [0, 1, 2, 3]
    assert [e.value for e in events(tmp_path).Scalars("loss")] == [1.0]
