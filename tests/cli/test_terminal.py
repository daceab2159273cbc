"""What commands print at 80 columns: on a terminal, without colour, and in a pipe."""

import fcntl
import os
import pty
import re
import shlex
import struct
import subprocess
import termios
from pathlib import Path

import numpy as np
import pytest

from tests.support.board import records, write
from tests.support.command_line import COMMAND, Call

# A colour or a style; what moves the cursor is another thing.
STYLE = re.compile(r"\x1b\[[\d;]*m")
ESCAPE = re.compile(r"\x1b\[[\d;?]*[A-Za-z]")
LONG = "model.encoder.layers.7.self_attention.out_projection.weight"


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run with a NaN, and four that nothing is wrong with."""
    log_dir = tmp_path_factory.mktemp("terminal") / "runs"
    bad = np.ones((40, 2))
    bad[30:, 1] = np.nan
    write(log_dir / "bad" / "version_0", records(bad, names=("head.weight", LONG)))
    for number in range(4):
        write(log_dir / f"fine-{number}" / "version_0", records(np.ones((40, 2))))
    return log_dir


def on_a_terminal(*arguments: object, columns: int = 80, **environment: str) -> str:
    """What a command prints where both of its streams are a terminal."""
    ours, theirs = pty.openpty()
    size = struct.pack("HHHH", 50, columns, 0, 0)
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, size)
    usual = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**usual, "TERM": "xterm-256color", **environment},
    )
    os.close(theirs)
    printed = b""
    try:
        while chunk := os.read(ours, 4096):
            printed += chunk
    except OSError:  # the terminal is gone with its last process
        pass
    os.close(ours)
    process.wait()
    return printed.decode()


def in_a_pipe(*arguments: object) -> str:
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)], check=True, capture_output=True, text=True
    )
    return done.stdout


def lines_of(printed: str) -> list[str]:
    return [line.rstrip() for line in ESCAPE.sub("", printed).splitlines()]


@pytest.mark.parametrize("runs", ["bad", ""])
def test_report_fits_a_terminal_of_80_columns(logs: Path, runs: str) -> None:
    printed = on_a_terminal("report", logs / runs)

    assert STYLE.search(printed)
    assert max(map(len, lines_of(printed))) <= 80


def test_no_color_is_heard(logs: Path) -> None:
    printed = on_a_terminal("report", logs / "bad", NO_COLOR="1")

    colors = re.findall(r"\x1b\[[\d;]*3\dm", printed)
    assert colors == []


@pytest.mark.parametrize("runs", ["bad", ""])
def test_pipe_gets_the_same_words_without_escape_codes(logs: Path, runs: str) -> None:
    piped = in_a_pipe("report", logs / runs)

    assert "\x1b" not in piped
    # A bar stood before them, which is wiped away.
    on_terminal = lines_of(on_a_terminal("report", logs / runs))
    said = lines_of(piped)
    assert on_terminal[-len(said) :] == said


def test_report_of_one_run_says_what_where_since_when_and_what_to_do(
    logs: Path,
) -> None:
    words = " ".join(in_a_pipe("report", logs / "bad").split())

    assert "error: The gradient is not finite at step 30 (NaN in " in words
    assert "out_projection.weight" in words
    assert 'Do: GradGuard(on_nonfinite="skip", dump_dir="bad-steps")' in words


@pytest.mark.slow
def test_train_says_what_to_do_as_a_command_that_can_be_typed(tmp_path: Path) -> None:
    printed = in_a_pipe(
        *("train", "--model", "mlp", "--max-epochs", "3", "--log-dir", tmp_path)
    )

    [line] = [one for one in printed.splitlines() if one.startswith("    Do:")]
    command = shlex.split(line.removeprefix("    Do:"))
    assert command[:3] == ["gradguard", "train", "--model"]
    assert command[-2] == "--clip-norm"
    cured = in_a_pipe(*command[1:])
    assert "nan" not in cured.lower()
    assert max(map(len, [*printed.splitlines(), *cured.splitlines()])) <= max(
        80, 10 + len(line), 30 + len(str(tmp_path))
    )


@pytest.mark.slow
def test_bar_of_train_shows_the_gradients_on_one_line(tmp_path: Path) -> None:
    printed = on_a_terminal(
        *("train", "--model", "srn", "--clip-norm", "5", "--max-epochs", "10"),
        *("--log-dir", tmp_path),
    )

    bars = [line for line in re.split(r"[\r\n]", printed) if "Epoch 9/9" in line]
    shown = ESCAPE.sub("", bars[-1])
    assert re.search(
        r"left: 0:00:00 loss: [\d.]+ total: [\d.]+ clipped: 100%", shown
    ), shown
    assert len(shown.rstrip()) <= 80


def test_bare_command_shows_help_with_an_example_of_each(gradguard: Call) -> None:
    code, out, err = gradguard()

    assert (code, err) == (0, "")
    _, _, shown = out.partition("Examples:")
    for command in ("train", "report", "sweep", "reproduce", "inspect", "configs"):
        assert f"gradguard {command} " in shown


@pytest.mark.parametrize(
    "command", ["train", "report", "replay", "sweep", "reproduce", "inspect"]
)
def test_help_of_each_command_has_an_example_that_it_understands(
    gradguard: Call, command: str
) -> None:
    _, out, _ = gradguard(command, "--help")

    _, _, shown = out.partition("Examples:")
    [example] = [line.strip() for line in shown.splitlines() if line.strip()]
    assert example.startswith(f"gradguard {command} ")
    for option in re.findall("--[a-z-]+", example):
        assert f"{option} " in out


def test_help_cuts_no_description(gradguard: Call) -> None:
    for command in ("", "train", "report", "sweep", "reproduce", "inspect", "configs"):
        _, out, _ = gradguard(*filter(None, [command]), "--help")
        cut = [line for line in out.splitlines() if line.endswith("...")]
        assert [
            line for line in cut if not line.endswith((", ...", "]...", "}..."))
        ] == []


def test_options_of_train_stand_in_groups(gradguard: Call) -> None:
    _, out, _ = gradguard("train", "--help")

    heads = re.findall(r"^([A-Z][a-z]+):$", out, re.MULTILINE)
    assert heads == [
        *("Model", "Training", "Clip", "Guard", "Hardware", "Output", "Options")
    ]
