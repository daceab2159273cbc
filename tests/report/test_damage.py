"""`gradguard report` over what is no run, or no longer one: a sentence, never a traceback."""

import contextlib
import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary

from gradguard.errors import ConfigError
from gradguard.report.runs import find_runs
from gradguard.tensorboard.reader import DamagedFileError, read_run
from tests.support.board import records, write
from tests.support.command_line import Call, in_a_process
from tests.support.event_files import new_event_file


@pytest.fixture
def call(gradguard: Call) -> Call:
    """Run `gradguard report ...` in this process."""
    return partial(gradguard, "report")


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run of six steps, in two writes."""
    directory = tmp_path / "runs" / "version_0"
    write(directory, *(records(np.ones((3, 2)), first=first) for first in (0, 3)))
    return directory


def event_file(run_dir: Path) -> Path:
    [file] = run_dir.glob("*tfevents*")
    return file


def write_foreign(directory: Path) -> None:
    """Write what any other tool logs."""
    value = Summary.Value(tag="loss", simple_value=1.0)
    with new_event_file(directory) as sink:
        sink.add_event(Event(step=1, summary=Summary(value=[value])))


def refused(call: Call, *arguments: object) -> str:
    code, out, err = call(*arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("gradguard: error: ")
    assert err.count("\n") == 1
    return err.removeprefix("gradguard: error: ").rstrip("\n")


def test_missing_path_is_refused(call: Call, tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"

    assert refused(call, missing) == f"{missing} does not exist"


def test_file_in_place_of_a_directory_is_refused(call: Call, run_dir: Path) -> None:
    file = event_file(run_dir)

    assert refused(call, file) == f"{file} is a file: expected the directory of a run"


def test_directory_without_events_is_refused(call: Call, tmp_path: Path) -> None:
    assert refused(call, tmp_path).startswith(f"{tmp_path} holds no events: expected")


def test_no_path_is_refused(call: Call) -> None:
    assert "Missing argument" in refused(call)


def test_events_of_another_tool_are_refused(call: Call, tmp_path: Path) -> None:
    write_foreign(tmp_path)

    assert (
        refused(call, tmp_path)
        == f"{tmp_path} holds events, but none of gradguard: train with GRADGUARD=1"
    )


def test_events_of_another_tool_are_named_beside_runs(
    call: Call, run_dir: Path
) -> None:
    other = run_dir.parent / "other"
    write_foreign(other)

    code, out, _ = call(run_dir.parent)

    assert code == 0
    folded = "".join(out.split())
    assert (
        "".join(
            f"{other} holds events, but none of gradguard: train with GRADGUARD=1.".split()
        )
        in folded
    )
    assert "before holds" not in out


def test_run_mixed_with_events_of_another_tool_is_reported(
    call: Call, run_dir: Path
) -> None:
    write_foreign(run_dir)

    code, out, _ = call(run_dir)

    assert code == 0
    assert "holds events" not in out


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs Linux")
def test_event_file_that_cannot_be_read_is_refused(call: Call, tmp_path: Path) -> None:
    (tmp_path / "events.out.tfevents.1").symlink_to("/proc/self/mem")

    assert refused(call, tmp_path) == f"{tmp_path} cannot be read: Input/output error"


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_directory_that_cannot_be_entered_is_refused(call: Call, run_dir: Path) -> None:
    run_dir.chmod(0)

    assert refused(call, run_dir).endswith("cannot be read: Permission denied")


def test_empty_event_file_is_refused(call: Call, run_dir: Path) -> None:
    event_file(run_dir).write_bytes(b"")

    assert "none of gradguard" in refused(call, run_dir)


def test_last_record_cut_short_is_left_out(run_dir: Path) -> None:
    file = event_file(run_dir)
    content = file.read_bytes()
    file.write_bytes(content[: content.rindex(b"gradguard/norms")])

    assert read_run(run_dir).steps.tolist() == [0, 1, 2]


def test_zeros_that_a_crashed_machine_leaves_are_left_out(run_dir: Path) -> None:
    with event_file(run_dir).open("ab") as file:
        file.write(bytes(4096))

    assert read_run(run_dir).steps.tolist() == list(range(6))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_length_that_nobody_wrote_is_damage(run_dir: Path, share: float) -> None:
    file = event_file(run_dir)
    content = file.read_bytes()
    file.write_bytes(content + b"\xff" * 100 + content[int(share * len(content)) :])

    with pytest.raises(DamagedFileError, match=f"damaged at byte {len(content)}"):
        read_run(run_dir)


def test_damaged_run_is_refused_with_the_byte(call: Call, run_dir: Path) -> None:
    file = event_file(run_dir)
    content = file.read_bytes()
    place = content.index(b'"names"')
    file.write_bytes(content[:place] + b"\xff" * 9 + content[place + 9 :])

    sentence = refused(call, run_dir)

    assert sentence.startswith(f"{run_dir} cannot be read: {file} is damaged at byte ")
    assert int(sentence.split()[-1]) < place


def test_damaged_run_does_not_hide_the_others(call: Call, run_dir: Path) -> None:
    damaged = run_dir.parent / "version_1"
    shutil.copytree(run_dir, damaged)
    event_file(damaged).write_bytes(b"\x01" * 1000)

    code, out, _ = call(run_dir.parent)

    assert code == 0
    assert f"{damaged.name}cannotberead" in "".join(out.split())


@pytest.mark.parametrize("seed", range(5))
def test_random_bytes_never_give_a_traceback(run_dir: Path, seed: int) -> None:
    file = event_file(run_dir)
    whole = file.read_bytes()
    random = np.random.default_rng(seed)
    for _ in range(100):
        content = bytearray(whole)
        start = int(random.integers(len(whole)))
        stop = min(len(whole), start + int(random.integers(1, 200)))
        content[start:stop] = random.bytes(stop - start)
        file.write_bytes(content)
        with contextlib.suppress(ConfigError):
            find_runs([run_dir])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--html", "page.txt"], "--html should end in .html or .htm, got 'page.txt'"),
        (["--html", ""], "--html should end in .html or .htm, got ''"),
        (["--figure", ""], "--figure should end in .png or .svg or .pdf, got ''"),
        (["--figure", "a.gif"], "--figure should end in .png or .svg or .pdf"),
        (["--figure", "nowhere/a.png"], "--figure 'nowhere/a.png': nowhere is no"),
        (["--html", "nowhere/a.html"], "--html 'nowhere/a.html': nowhere is no"),
        (["--html", "taken.html"], "'taken.html' cannot be written: Is a directory"),
        (["--steps", "ten"], "--steps expects 40, 40:100 or 40:, got 'ten'"),
        (["--steps", ""], "--steps expects 40, 40:100 or 40:, got ''"),
        (["--steps", "6:"], "--steps leaves nothing to show: steps 0 to 5 are"),
        (["--steps", "0"], "--steps leaves nothing to show"),
        (["--parameters", "["], "--parameters '[' is no regular expression"),
        (["--parameters", "no"], "--parameters 'no' is found in no name such as"),
    ],
)
def test_option_that_cannot_be_met_is_refused(
    call: Call,
    run_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    sentence: str,
) -> None:
    (run_dir / "taken.html").mkdir()
    monkeypatch.chdir(run_dir)
    before = set(run_dir.iterdir())

    assert sentence in refused(call, run_dir, *arguments)

    assert set(run_dir.iterdir()) == before


def test_installed_command_exits_2(tmp_path: Path) -> None:
    code, out, err = in_a_process("report", tmp_path)

    assert (code, out) == (2, "")
    assert "Traceback" not in err
