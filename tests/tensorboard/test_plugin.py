"""The Gradients page over HTTP: a real TensorBoard, with the data server and without."""

import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from gradguard.tensorboard.page.heat import PER_DECADE
from gradguard.tensorboard.page.library import LARGEST_CACHE
from gradguard.tensorboard.reader import read_recordings
from tests.support.board import (
    LOADERS,
    Board,
    board,
    records,
    some_epochs,
    thousand_with_a_spike,
    write,
)
from tests.support.event_files import new_event_file

both_loaders = pytest.mark.parametrize("load_fast", LOADERS, ids=["fast", "slow"])

EVERYTHING = {"start": 0, "stop": 2**53}
HEAT = {"bins": 8192, "moment": "before", "scale": "absolute"}
CLIP = "ClipNorm(max_norm=5.0, per_parameter=False)"


def cells(board: Board, **query: Any) -> tuple[Any, Any]:
    """The first step of each bin, and the cells of each row."""
    status, body = board.get(
        "data/plugin/gradguard/heat", **(HEAT | EVERYTHING | query)
    )
    assert status == 200, body
    rows = query["rows"].count(";") + 1
    bins = len(body) // (8 + 2 * rows)
    steps = struct.unpack(f"<{bins}d", body[: 8 * bins])
    numbers = struct.unpack(f"<{bins * rows}h", body[8 * bins :])
    return steps, np.array(numbers).reshape(rows, bins)


@pytest.fixture(scope="module", params=LOADERS, ids=["fast", "slow"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Board]:
    """Ten steps of two parameters; another run with everything that may go wrong."""
    logdir = tmp_path_factory.mktemp("served") / "runs"
    plain = np.array([[10.0**step, 1.0] for step in range(10)])
    parts = records(plain, coefficient=0.5)
    write(logdir / "plain", parts, clip=CLIP, epochs=some_epochs(parts.names))
    odd = np.array([[1.0, -1], [np.nan, -1], [np.inf, -1], [0.0, -1]])
    write(logdir / "odd", records(odd))
    write(logdir / "healthy", records(np.ones((30, 2))))
    with board(logdir, load_fast=request.param) as tensorboard:
        tensorboard.wait(lambda: tensorboard.runs() == ["healthy", "odd", "plain"])
        yield tensorboard


def test_tab_is_active(served: Board) -> None:
    status, body = served.get("data/plugins_listing")

    assert status == 200
    assert b'"gradguard": {"disable_reload": false, "enabled": true' in body


def test_runs_of_scalars_alone_are_not_offered(served: Board) -> None:
    assert served.runs() == [
        "healthy",
        "odd",
        "plain",
    ]  # and not plain/before, plain/after


def test_summary_says_what_was_recorded(served: Board) -> None:
    summary = served.ask("summary", run="plain")

    assert summary["names"] == ["layer.0.weight", "layer.1.weight"]
    assert (summary["start"], summary["stop"], summary["recorded"]) == (0, 9, 10)
    [clip] = summary["clips"]
    assert (clip["step"], clip["threshold"], clip["per_parameter"]) == (0, 5.0, False)
    assert summary["clip_fraction"] == 1.0


def test_totals_are_those_of_the_events(served: Board) -> None:
    totals = served.ask("totals", run="plain", bins=1000, **EVERYTHING)

    assert totals["steps"] == list(range(10))
    before = [(100.0**step + 1) ** 0.5 for step in range(10)]
    assert totals["before"] == pytest.approx(before)
    assert totals["after"] == pytest.approx([0.5 * norm for norm in before])
    assert totals["coefficient"] == pytest.approx([0.5] * 10)


def test_parameter_is_that_of_the_events(served: Board) -> None:
    query = {"run": "plain", "parameter": "layer.0.weight", "bins": 5}

    norms = served.ask("parameter", **query, **EVERYTHING)

    assert norms["steps"] == [0, 2, 4, 6, 8]
    assert norms["before"] == pytest.approx([10.0**step for step in (1, 3, 5, 7, 9)])
    assert norms["clipped"] == [True] * 5


def test_threshold_of_a_parameter_is_the_one_for_it_alone(tmp_path: Path) -> None:
    code = (
        "ByName({'*.0.*': ClipNorm(max_norm=3.0, per_parameter=True), "
        "'*': ClipNorm(max_norm=9.0)})"
    )
    write(tmp_path / "run", records(np.full((4, 2), 5.0)), clip=code)

    with board(tmp_path) as tensorboard:
        tensorboard.wait(lambda: tensorboard.runs() == ["run"])
        query = {"run": "run", "bins": 4, **EVERYTHING}
        names = ("layer.0.weight", "layer.1.weight")
        told = [tensorboard.ask("parameter", parameter=name, **query) for name in names]
        [clip] = tensorboard.ask("summary", run="run")["clips"]

    assert [norms["thresholds"] for norms in told] == [[3.0], [None]]
    assert clip["threshold"] is None


def test_profile_is_that_of_the_last_step_recorded(served: Board) -> None:
    assert served.ask("profile", run="plain", step=4)["before"] == [1e4, 1.0]
    assert served.ask("profile", run="plain", step=999)["step"] == 9


def test_epochs_are_those_of_the_events(served: Board) -> None:
    names = ("layer.0.weight", "layer.1.weight")
    written = some_epochs(names)

    shown = served.ask("epochs", run="plain", rows="1;0", statistic="gradient_sd_after")

    assert served.ask("summary", run="plain")["epochs"] == 7
    assert shown["epochs"] == list(range(-1, 6))
    assert shown["names"] == ["layer.1.weight", "layer.0.weight"]
    assert shown["values"] == written["gradient_sd_after"].T[::-1].tolist()


def test_statistic_that_is_no_number_is_left_out(served: Board) -> None:
    shown = served.ask("epochs", run="plain", rows="0", statistic="update_ratio")

    assert shown["values"][0][0] is None
    assert np.isfinite(shown["values"][0][1:]).all()


def test_run_without_epochs_says_so(served: Board) -> None:
    query = {"run": "odd", "rows": "0", "statistic": "weight_sd"}
    status, body = served.get("data/plugin/gradguard/epochs", **query)

    assert served.ask("summary", run="odd")["epochs"] == 0
    assert (status, b"no statistics by epoch" in body) == (404, True)


def test_heat_is_the_logarithm(served: Board) -> None:
    steps, decades = cells(served, run="plain", rows="0;1")

    assert steps == tuple(range(10))
    assert decades[0].tolist() == [PER_DECADE * step for step in range(10)]
    assert decades[1].tolist() == [0] * 10


def test_row_of_several_parameters_shows_the_largest(served: Board) -> None:
    _, together = cells(served, run="plain", rows="0-1")
    _, alone = cells(served, run="plain", rows="1;0")

    assert together[0].tolist() == alone.max(axis=0).tolist()


def test_nan_inf_zero_and_missing_have_marks_of_their_own(served: Board) -> None:
    _, marks = cells(served, run="odd", rows="0;1")

    assert marks[0].tolist() == [0, 32767, 32766, -32767]
    assert marks[1].tolist() == [-32768] * 4


def test_nan_is_not_hidden_by_the_numbers_around_it(served: Board) -> None:
    _, marks = cells(served, run="odd", rows="0-1", bins=1)

    assert marks.tolist() == [[32767]]


def test_peak_finds_the_step_and_the_parameter(served: Board) -> None:
    query = {"rows": "0-1", "moment": "before", "scale": "absolute", "start": 2}

    found = served.ask("peak", run="plain", stop=6, **query)

    assert (found["step"], found["parameter"]) == (6, "layer.0.weight")


def test_verdict_is_the_worst_finding_with_the_others_below_it(served: Board) -> None:
    verdict = served.ask("summary", run="odd")["verdict"]

    assert verdict["severity"] == "warning"
    assert (verdict["step"], verdict["parameter"]) == (1, "layer.0.weight")
    assert "(NaN in layer.0.weight), and on 2 of 4 steps" in verdict["text"]
    assert verdict["do"].startswith("Trainer(gradient_clip_val=")
    assert verdict["advice"]
    assert [other["severity"] for other in verdict["others"]] == ["warning"]
    assert verdict["with_it"] == ["unclipped"]


def test_verdict_of_a_healthy_run_is_that_nothing_was_found(served: Board) -> None:
    verdict = served.ask("summary", run="healthy")["verdict"]

    assert verdict["severity"] == "good"
    assert verdict["text"] == "Nothing found in 30 steps of 2 parameters."


def test_events_of_a_bin_are_those_of_any_of_its_steps(served: Board) -> None:
    found = served.ask("events", run="odd", bins=2, **EVERYTHING)

    assert (found["steps"], found["per_point"]) == ([0, 2], 2)
    assert found["nonfinite"] == [True, True]  # steps 1 and 2
    assert found["clipped"] == [False, False]


def test_cell_is_one_gradient_at_one_step(served: Board) -> None:
    found = served.ask("cell", run="plain", step=6, parameter="layer.0.weight")

    assert found == {
        "step": 6,
        "parameter": "layer.0.weight",
        "before": 1e6,
        "after": 0.5e6,
        "times": pytest.approx(1e6 / np.median([10.0**step for step in range(10)])),
        "clipped": True,
        "skipped": False,
    }


def test_parameters_that_were_not_finite_come_first_of_the_worst(
    served: Board,
) -> None:
    assert served.ask("summary", run="odd")["worst"] == [0, 1]
    assert served.ask("summary", run="plain")["worst"] == [0, 1]


@pytest.mark.parametrize(
    ("route", "change", "sentence"),
    [
        ("summary", {"run": "none"}, "nothing for run 'none'"),
        ("summary", {"run": "../../etc/passwd"}, "nothing for run"),
        ("summary", {"optimizer": "adam"}, "optimizer 'adam' of run 'plain'"),
        ("summary", {"run": "plain/before"}, "nothing for run"),
        ("totals", {"start": "x"}, "start must be a whole number"),
        ("totals", {"start": ""}, "start must be a whole number"),
        ("totals", {"start": "-1"}, "start must be a whole number"),
        ("totals", {"start": 9, "stop": 3}, "recorded steps between them"),
        ("totals", {"start": 10**16, "stop": 10**16}, "start must be a whole"),
        ("totals", {"bins": 0}, "bins must be a whole number from 1"),
        ("totals", {"bins": 10**9}, "bins must be a whole number from 1"),
        ("heat", {"bins": "1e3"}, "bins must be a whole number"),
        ("heat", {"rows": "0-2"}, "with numbers below 2"),
        ("heat", {"rows": "1-0"}, "with numbers below 2"),
        ("heat", {"rows": ""}, "rows must look like"),
        ("heat", {"rows": "0;;1"}, "rows must look like"),
        ("heat", {"rows": "0;0;0"}, "each parameter once"),
        ("heat", {"rows": "-1"}, "rows must look like"),
        ("heat", {"moment": "during"}, "one of before, after, removed"),
        ("heat", {"scale": "<b>"}, "one of relative, absolute"),
        ("parameter", {"parameter": "layer.9.weight"}, "no parameter 'layer.9"),
        ("profile", {"step": "last"}, "step must be a whole number"),
        ("cell", {"step": "last"}, "step must be a whole number"),
        ("cell", {"parameter": "layer.9.weight"}, "no parameter 'layer.9"),
        ("events", {"bins": 0}, "bins must be a whole number from 1"),
        ("peak", {"rows": "5"}, "rows must look like"),
        ("epochs", {"rows": "5"}, "rows must look like"),
        ("epochs", {"statistic": "sd"}, "one of weight_mean, weight_sd"),
    ],
)
def test_bad_request_is_refused_in_a_sentence(
    served: Board, route: str, change: dict[str, Any], sentence: str
) -> None:
    good = {**HEAT, **EVERYTHING, "run": "plain", "rows": "0;1", "step": 3}

    status, body = served.get(f"data/plugin/gradguard/{route}", **(good | change))

    assert 400 <= status < 500
    assert sentence in body.decode()
    assert b"Traceback" not in body
    assert b"\n" not in body


@pytest.mark.parametrize(
    "path",
    [
        "../plugin.py",
        "..%2fplugin.py",
        "%2e%2e/plugin.py",
        "static/index.js",
        "index.js/../../plugin.py",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "plugin.py",
        "index.js%00",
    ],
)
def test_path_outside_the_list_is_not_found(served: Board, path: str) -> None:
    status, body = served.get(f"data/plugin/gradguard/{path}")

    assert status == 404
    assert body == b"Not found"


def test_page_is_not_written_to(served: Board) -> None:
    from urllib.error import HTTPError
    from urllib.request import urlopen

    with pytest.raises(HTTPError, match="405"):
        urlopen(f"{served.url}data/plugin/gradguard/sources", data=b"x")


@both_loaders
def test_later_write_of_a_resumed_run_counts(tmp_path: Path, load_fast: str) -> None:
    run = tmp_path / "runs" / "resumed"
    write(run, records(np.ones((100, 2))))
    write(run, records(np.full((70, 2), 4.0), first=80), clip=CLIP)

    with board(tmp_path / "runs", load_fast=load_fast) as tensorboard:
        tensorboard.wait(lambda: tensorboard.runs() == ["resumed"])
        tensorboard.wait(
            lambda: tensorboard.ask("summary", run="resumed")["recorded"] == 150
        )
        totals = tensorboard.ask("totals", run="resumed", bins=1000, **EVERYTHING)
        clips = tensorboard.ask("summary", run="resumed")["clips"]

    assert totals["steps"] == list(range(150))
    assert totals["before"] == pytest.approx([2**0.5] * 80 + [32**0.5] * 70)
    assert [(clip["step"], clip["threshold"]) for clip in clips] == [(0, None), (80, 5)]


@both_loaders
def test_epochs_of_a_resumed_run_go_on(tmp_path: Path, load_fast: str) -> None:
    run = tmp_path / "runs" / "resumed"
    parts = records(np.ones((3, 2)))
    write(run, parts, epochs=some_epochs(parts.names, last=2))
    again = some_epochs(parts.names, first=2, last=4)
    write(run, records(np.ones((3, 2)), first=3), clip=CLIP, epochs=again)

    query = {"run": "resumed", "rows": "0", "statistic": "weight_mean"}
    with board(tmp_path / "runs", load_fast=load_fast) as tensorboard:
        tensorboard.wait(lambda: tensorboard.runs() == ["resumed"])
        tensorboard.wait(
            lambda: tensorboard.ask("summary", run="resumed")["epochs"] == 6
        )
        shown = tensorboard.ask("epochs", **query)

    assert shown["epochs"] == [-1, 0, 1, 2, 3, 4]
    assert shown["values"][0][3:] == again["weight_mean"][:, 0].tolist()
    read = read_recordings(run)[""].epochs
    assert read is not None
    assert read["weight_mean"][:, 0].tolist() == shown["values"][0]


@both_loaders
def test_epochs_keep_their_columns(tmp_path: Path, load_fast: str) -> None:
    run = tmp_path / "runs" / "grown"
    first = records(np.ones((1, 1)), names=("old",))
    write(run, first, epochs=some_epochs(("old",), last=0))
    second = records(np.ones((1, 2)), first=1, names=("new", "old"))
    write(run, second, epochs=some_epochs(second.names, first=1, last=1))

    query = {"run": "grown", "rows": "0;1", "statistic": "weight_mean"}
    with board(tmp_path / "runs", load_fast=load_fast) as tensorboard:
        tensorboard.wait(lambda: tensorboard.runs() == ["grown"])
        tensorboard.wait(lambda: tensorboard.ask("summary", run="grown")["epochs"] == 3)
        shown = tensorboard.ask("epochs", **query)

    assert shown["names"] == ["new", "old"]
    assert shown["values"] == [[None, None, 1], [1, 7, 7]]


@both_loaders
def test_changed_parameter_list_keeps_its_columns(
    tmp_path: Path, load_fast: str
) -> None:
    run = tmp_path / "runs" / "grown"
    later = records(np.array([[3.0, 2.0]]), first=1, names=("new", "old"))
    write(run, records(np.array([[1.0]]), names=("old",)), later)

    with board(tmp_path / "runs", load_fast=load_fast) as tensorboard:
        tensorboard.wait(lambda: tensorboard.runs() == ["grown"])
        tensorboard.wait(
            lambda: tensorboard.ask("summary", run="grown")["recorded"] == 2
        )
        names = tensorboard.ask("summary", run="grown")["names"]
        profiles = [tensorboard.ask("profile", run="grown", step=s) for s in (0, 1)]

    assert names == ["new", "old"]  # as in the newest list
    assert [profile["before"] for profile in profiles] == [[-1.0, 1.0], [3.0, 2.0]]


@both_loaders
def test_run_that_grows_is_read_again(tmp_path: Path, load_fast: str) -> None:
    from gradguard.records.schema import Schema
    from gradguard.tensorboard.writer import EventWriter

    run = tmp_path / "runs" / "growing"
    sink = EventFileWriter(str(run))
    writer = EventWriter(sink, run, max_scalars=0)
    first, second = records(np.ones((3, 1))), records(np.ones((2, 1)), first=3)
    writer.write(Schema(first.names), first, {})
    writer.flush()

    with board(tmp_path / "runs", load_fast=load_fast) as tensorboard:
        tensorboard.wait(lambda: tensorboard.runs() == ["growing"])
        assert tensorboard.ask("summary", run="growing")["recorded"] == 3
        writer.write(Schema(second.names), second, {})
        writer.flush()
        tensorboard.wait(
            lambda: tensorboard.ask("summary", run="growing")["recorded"] == 5
        )
    sink.close()


@both_loaders
def test_several_optimizers_are_offered_each(tmp_path: Path, load_fast: str) -> None:
    run = tmp_path / "runs" / "gan"
    write(run, records(np.ones((3, 1))), optimizer="optimizer_0")
    write(run, records(np.ones((5, 1))), optimizer="optimizer_1")

    with board(tmp_path / "runs", load_fast=load_fast) as tensorboard:
        tensorboard.wait(lambda: tensorboard.runs() == ["gan", "gan"])
        query = {"run": "gan", "optimizer": "optimizer_1"}
        assert tensorboard.ask("summary", **query)["recorded"] == 5


@both_loaders
def test_all_samples_are_kept(tmp_path: Path, load_fast: str) -> None:
    parts = [records(np.ones((1, 1)), first=step) for step in range(300)]
    write(tmp_path / "runs" / "many", *parts)

    with board(tmp_path / "runs", load_fast=load_fast) as tensorboard:
        tensorboard.wait(lambda: tensorboard.runs() == ["many"])
        tensorboard.wait(
            lambda: tensorboard.ask("summary", run="many")["recorded"] == 300
        )


@both_loaders
def test_number_of_samples_the_user_asks_for_wins(
    tmp_path: Path, load_fast: str
) -> None:
    parts = [records(np.ones((1, 1)), first=step) for step in range(300)]
    write(tmp_path / "runs" / "many", *parts)

    option = "--samples_per_plugin=gradguard=20"
    with board(tmp_path / "runs", option, load_fast=load_fast) as tensorboard:
        tensorboard.wait(lambda: tensorboard.runs() == ["many"])
        tensorboard.wait(lambda: tensorboard.ask("summary", run="many")["stop"] == 299)
        assert tensorboard.ask("summary", run="many")["recorded"] == 20


@both_loaders
@pytest.mark.parametrize("damage", ["cut short", "bits flipped"])
def test_damage_costs_only_what_stands_behind_it(
    tmp_path: Path, load_fast: str, damage: str
) -> None:
    logdir = tmp_path / "runs"
    write(logdir / "sound", records(np.ones((3, 2))))
    parts = (records(np.ones((9, 2)), first=9 * i) for i in range(3))
    write(logdir / "damaged", *parts)
    [file] = (logdir / "damaged").glob("*tfevents*")
    intact, last = file.read_bytes()[:-100], file.read_bytes()[-100:]
    flipped = bytes(byte ^ 0xFF for byte in last)
    file.write_bytes(intact + flipped * (damage == "bits flipped"))

    with board(logdir, load_fast=load_fast) as tensorboard:
        tensorboard.wait(lambda: tensorboard.runs() == ["damaged", "sound"])
        assert tensorboard.ask("summary", run="sound")["recorded"] == 3
        assert tensorboard.ask("summary", run="damaged")["recorded"] == 2 * 9


@both_loaders
def test_metadata_and_tensors_that_do_not_fit_are_left_out(
    tmp_path: Path, load_fast: str
) -> None:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.util import tensor_util

    from gradguard.records.schema import Schema
    from gradguard.tensorboard import tags

    def value(tag: str, content: bytes, array: Any) -> Summary.Value:
        plugin = SummaryMetadata.PluginData(plugin_name="gradguard", content=content)
        metadata = SummaryMetadata(plugin_data=plugin, data_class=2)
        tensor = tensor_util.make_tensor_proto(array)
        return Summary.Value(tag=tag, metadata=metadata, tensor=tensor)

    logdir = tmp_path / "runs"
    write(logdir / "sound", records(np.ones((3, 2))))
    schema = Schema(("a", "b"))
    for run, values in {
        "not json": [value("gradguard/norms/0", b"{", np.ones((1, 2, 2)))],
        "not ours": [value("gradguard/norms/0", b"[]", np.ones((1, 2, 2)))],
        "shapes": [
            value(schema.tag(tags.NORMS), schema.encode(), np.ones((4, 3, 2))),
            value(schema.tag(tags.STEPS), schema.encode(), np.arange(4)),
            value(schema.tag(tags.LOSS), schema.encode(), np.ones(4)),
        ],
        "alone": [value(schema.tag(tags.NORMS), schema.encode(), np.ones((4, 2, 2)))],
    }.items():
        with new_event_file(logdir / run) as sink:
            sink.add_event(Event(wall_time=1.0, step=1, summary=Summary(value=values)))

    with board(logdir, load_fast=load_fast) as tensorboard:
        tensorboard.wait(lambda: tensorboard.runs() == ["alone", "shapes", "sound"])
        for run in ("alone", "shapes"):
            status, body = tensorboard.get("data/plugin/gradguard/summary", run=run)
            assert (status, b"is readable" in body) == (404, True)
        assert tensorboard.ask("summary", run="sound")["recorded"] == 3


@both_loaders
def test_tensorboard_starts_on_nothing(tmp_path: Path, load_fast: str) -> None:
    logdir = tmp_path / "runs"
    logdir.mkdir()

    with board(logdir, load_fast=load_fast) as tensorboard:
        assert tensorboard.runs() == []
        assert tensorboard.get("")[0] == 200


def test_tensorboard_shows_the_page_where_torch_is_absent(tmp_path: Path) -> None:
    write(tmp_path / "runs" / "plain", records(np.ones((3, 2))))
    without = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'lightning'])); "
        "from tensorboard.main import run_main; run_main()"
    )

    with board(tmp_path / "runs", python=("-c", without)) as tensorboard:
        tensorboard.wait(lambda: tensorboard.runs() == ["plain"])
        assert tensorboard.ask("summary", run="plain")["recorded"] == 3


def test_entry_point_imports_only_the_base_of_plugins() -> None:
    import subprocess

    code = (
        "import sys, tensorboard.plugins.base_plugin; before = set(sys.modules); "
        "import gradguard.tensorboard.plugin; print(*set(sys.modules) - before)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )

    ours = {"gradguard", "gradguard.tensorboard"}
    ours |= {"gradguard.tensorboard.plugin", "gradguard.tensorboard.tags"}
    ours |= {"gradguard.clipping", "gradguard.clipping.spec"}  # the public names
    ours |= {"gradguard.records", "gradguard.records.clips"}
    others = set(run.stdout.split()) - ours
    assert {name.split(".")[0].lstrip("_") for name in others} <= {
        name.lstrip("_") for name in sys.stdlib_module_names
    }


@pytest.mark.slow
@both_loaders
def test_spike_among_five_million_norms_is_found(
    tmp_path: Path, load_fast: str
) -> None:
    logdir = tmp_path / "runs"
    thousand_with_a_spike(logdir / "thousand", step=3210, column=517)
    rows = ";".join(f"{i}-{i + 3}" for i in range(0, 1000, 4))
    query = {"run": "thousand", "rows": rows, "scale": "relative", "bins": 300}

    with board(logdir, load_fast=load_fast) as tensorboard:
        tensorboard.wait(lambda: tensorboard.runs() == ["thousand"])
        tensorboard.wait(
            lambda: tensorboard.ask("summary", run="thousand")["recorded"] == 5000
        )
        steps, decades = cells(tensorboard, **query)

    row, column = np.unravel_index(decades.argmax(), decades.shape)
    assert (row, steps[column]) == (517 // 4, 3210 - 3210 % 17)
    assert (decades > 2 * PER_DECADE).sum() == 1


@pytest.mark.slow
def test_memory_is_bounded_however_many_runs_are_looked_at(tmp_path: Path) -> None:
    logdir = tmp_path / "runs"
    names = [f"thousand-{i}" for i in range(9)]
    thousand_with_a_spike(logdir / names[0], step=3210, column=517)
    [file] = (logdir / names[0]).iterdir()
    for name in names[1:]:
        (logdir / name).mkdir()
        (logdir / name / file.name).hardlink_to(file)
    size = 5000 * 1000 * (2 * 4 + 1)
    assert size * len(names) > 1.5 * LARGEST_CACHE

    with board(logdir) as tensorboard:
        tensorboard.wait(lambda: tensorboard.runs() == names)
        empty = tensorboard.peak_memory
        for name in names * 2:
            assert tensorboard.ask("summary", run=name)["stop"] == 4999
        used = tensorboard.peak_memory - empty

    # Reading takes memory too, and the allocator does not give all of it back.
    assert used < 3 * LARGEST_CACHE


@both_loaders
def test_run_too_large_to_read_at_once_is_sampled(
    tmp_path: Path, load_fast: str
) -> None:
    parts = (records(np.ones((10, 100)), first=10 * i) for i in range(50))
    write(tmp_path / "runs" / "large", *parts)
    read_less = (
        "from gradguard.tensorboard.page import library; "
        "library.LARGEST_READ = 100_000; "
        "from tensorboard.main import run_main; run_main()"
    )

    with board(
        tmp_path / "runs", load_fast=load_fast, python=("-c", read_less)
    ) as tensorboard:
        tensorboard.wait(lambda: tensorboard.runs() == ["large"])
        tensorboard.wait(
            lambda: tensorboard.ask("summary", run="large")["writes"] == 50
        )
        summary = tensorboard.ask("summary", run="large")

    assert summary["writes_read"] == 100_000 // (10 * 100 * 2 * 4)
    assert summary["recorded"] == 10 * summary["writes_read"]
    assert summary["stop"] == 499
