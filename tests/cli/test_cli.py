"""The command line: its surface, its weight, and how it answers mistakes."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from gradguard import __version__
from gradguard.cli import app
from gradguard.cli.options import SETTINGS
from gradguard.experiments.resolve import resolve
from tests.support.board import records, write
from tests.support.command_line import COMMAND, Call, in_a_process

# Says, once a command has ended, what it imported and how much CPU time it took, and how
# much Python and a command of Typer's that does nothing had taken before it.
# Not pydantic: Typer itself reads even --help through it, in some 20 ms.
PROBE = """
import json, sys, time
import typer
app = typer.Typer()
@app.command()
def nothing():
    pass
try:
    app(["--help"])
except SystemExit:
    bare_s = time.process_time()
sys.argv[0] = "gradguard"
from gradguard.cli import main
try:
    main()
except SystemExit as ending:
    heavy = {"torch", "lightning", "sklearn", "tensorboard"} & set(sys.modules)
    times = {"bare_s": bare_s, "ours_s": time.process_time() - bare_s}
    print(json.dumps({"code": ending.code, "heavy": sorted(heavy), **times}), file=sys.stderr)
"""

HELPS = [
    ("--help",),
    ("train", "--help"),
    ("report", "--help"),
    ("replay", "--help"),
    ("sweep", "--help"),
    ("reproduce", "--help"),
    ("inspect", "--help"),
    ("reproduce", "--help"),
    ("configs", "--help"),
    ("configs", "show", "--help"),
]


def probe(*arguments: str) -> dict[str, Any]:
    process = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    report: dict[str, Any] = json.loads(process.stderr.splitlines()[-1])
    return report


def test_surface_is_this() -> None:
    group = typer.main.get_command(app)
    commands = {"": group, **group.commands}  # type: ignore[attr-defined]  # a group
    commands |= {
        f"configs {name}": command
        for name, command in commands["configs"].commands.items()
    }

    surface = {
        f"{name} {option}".strip()
        for name, command in commands.items()
        for parameter in command.params
        for option in parameter.opts
    }

    assert surface == {
        "--version",
        "reproduce --jobs",
        "reproduce --list",
        "reproduce --output",
        "reproduce --quick",
        "reproduce --seeds",
        "reproduce names",
        "replay --html",
        "replay --json",
        "replay --module",
        "replay --set",
        "replay --trust",
        "replay dump",
        "report --figure",
        "report --full",
        "report --html",
        "report --interactive",
        "report --json",
        "report --layers",
        "report --parameters",
        "report --steps",
        "report runs",
        "inspect --batch-size",
        "inspect --config",
        "inspect --figure",
        "inspect --full-batch",
        "inspect --json",
        "inspect --model",
        "inspect --module",
        "inspect --seed",
        "inspect --set",
        "sweep --batch-size",
        "sweep --clip-norm",
        "sweep --clip-order",
        "sweep --clip-value",
        "sweep --config",
        "sweep --figure",
        "sweep --jobs",
        "sweep --json",
        "sweep --keep-runs",
        "sweep --log-dir",
        "sweep --lr",
        "sweep --max-epochs",
        "sweep --model",
        "sweep --per-parameter",
        "sweep --seeds",
        "sweep --set",
        "sweep --sweep",
        "train --accelerator",
        "train --batch-size",
        "train --clip",
        "train --clip-by-name",
        "train --clip-norm",
        "train --clip-order",
        "train --clip-value",
        "train --config",
        "train --devices",
        "train --dump-dir",
        "train --layer-statistics",
        "train --log-dir",
        "train --log-every-n-steps",
        "train --lr",
        "train --max-consecutive-skips",
        "train --on-spike",
        "train --max-epochs",
        "train --model",
        "train --num-nodes",
        "train --on-nonfinite",
        "train --optimizer",
        "train --per-parameter",
        "train --precision",
        "train --resume",
        "train --seed",
        "train --set",
        "train --strategy",
        "train --weight-decay",
        "configs show name",
    }


@cache
def help_of(*arguments: str) -> dict[str, Any]:
    return probe(*arguments)


@pytest.mark.parametrize("arguments", HELPS, ids=" ".join)
def test_help_imports_nothing_heavy(arguments: tuple[str, ...]) -> None:
    report = help_of(*arguments)

    assert (report["code"], report["heavy"]) == (0, [])


@pytest.mark.parametrize("arguments", HELPS, ids=" ".join)
def test_help_takes_less_than_twice_what_typer_takes(
    arguments: tuple[str, ...],
) -> None:
    # Other tests take their turns on the same cores, and not in each of three tries.
    reports = (probe(*arguments) for _ in range(3))

    assert any(report["ours_s"] < 2 * report["bare_s"] for report in reports)


def test_help_is_tested_of_every_command() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # a group

    assert {name for name, *_ in HELPS} == {"--help", *commands}


def test_probe_sees_what_a_command_imports() -> None:
    report = probe("train", "--model", "srn", "--lr", "fast")

    assert report["code"] == 2
    assert {"torch", "lightning"} <= set(report["heavy"])


@pytest.mark.parametrize("arguments", HELPS, ids=" ".join)
def test_help_fits_80_columns(gradguard: Call, arguments: tuple[str, ...]) -> None:
    _, out, _ = gradguard(*arguments)

    assert out.startswith("Usage: gradguard")
    assert max(map(len, out.splitlines())) <= 80


def test_help_says_what_each_command_does_in_a_whole_sentence(gradguard: Call) -> None:
    _, out, _ = gradguard("--help")
    _, commands = out.split("Commands:")

    assert "..." not in commands


def test_version_is_the_package_s(gradguard: Call) -> None:
    assert gradguard("--version") == (0, f"gradguard {__version__}\n", "")


def test_python_m_is_the_same_command_line() -> None:
    assert in_a_process("--version") == (0, f"gradguard {__version__}\n", "")


def test_configs_lists_each_with_a_sentence_on_a_line_of_80_columns(
    gradguard: Call,
) -> None:
    code, out, _ = gradguard("configs")
    lines = {line.split()[0]: line for line in out.splitlines()}

    assert code == 0
    assert lines["srn-cured"].split(maxsplit=1)[1].startswith("Clipped to norm 5")
    assert max(map(len, lines.values())) <= 80


def test_configs_show_prints_the_file(gradguard: Call) -> None:
    code, out, _ = gradguard("configs", "show", "srn-cured")

    assert code == 0
    assert out.startswith("# Clipped to norm 5")
    assert out.endswith("clip:\n  - norm: 5.0\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("trian", "No such command 'trian'"),
        ("--bogus", "No such option: --bogus"),
        ("configs show", "Missing argument"),
        ("configs show srn-curd", "did you mean 'srn-cured'?"),
        ("train", "model.name is missing"),
        ("train --max-epoch 3", "No such option: --max-epoch"),
        ("train --lr", "Option '--lr' requires an argument"),
        ("train srn", "unexpected extra argument"),
        ("train --model srm", "model.name 'srm' is unknown, did you mean 'srn'?"),
        ("train --config srn-curd", "did you mean 'srn-cured'?"),
        ("train --model srn --lr fast", "model.lr should be a valid number, got"),
        (
            "train --model srn --clip-norm -1",
            "clip[0].norm (--clip-norm) should be greater than 0",
        ),
        (
            "train --model srn --clip-norm nan",
            "clip[0].norm (--clip-norm) should be a valid number",
        ),
        (
            "train --model srn --clip-value .nan",
            "clip[0].value (--clip-value) should be a finite",
        ),
        ("train --model srn --per-parameter", "--per-parameter needs --clip-norm"),
        ("train --model srn --clip norm", "--clip expects norm:NUMBER"),
        ("train --model srn --clip zcilp", "--clip expects norm:NUMBER"),
        ("train --model srn --clip auto:101", "clip[0].auto should be less than or"),
        ("train --model srn --clip-by-name norm:5", "expects PATTERN=POLICY"),
        ("train --model srn --clip-by-name x.*=zclip", "the nearest: "),
        ("train --model srn --on-nonfinite ski", "did you mean 'skip'?"),
        ("train --model srn --set model.cel=gru", "did you mean model.cell?"),
        ("train --model srn --set data.length=2", "data.length must be at least 3"),
        ("train --model srn --accelerator tpu", "trainer (accelerator tpu, devices 1"),
        ("train --model srn --devices 0", "trainer.devices should be"),
        ("train --model srn --resume no.ckpt", "checkpoint 'no.ckpt' cannot be read"),
    ],
)
def test_mistake_ends_in_one_sentence_before_anything_is_written(
    gradguard: Call,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: str,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)

    code, out, err = gradguard(*arguments.split())

    assert code == 2
    assert out == ""
    assert err.startswith("gradguard: error: ")
    assert said in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "key"), SETTINGS.items(), ids=list(SETTINGS))
def test_option_is_short_for_its_setting(gradguard: Call, name: str, key: str) -> None:
    option = f"--{name.replace('_', '-')}"

    by_option = gradguard("train", "--model", "srn", option, "{wrong: 1}")
    by_setting = gradguard("train", "--model", "srn", "--set", f"{key}={{wrong: 1}}")

    assert by_option == by_setting
    assert key in by_option[2]


def test_log_dir_below_a_file_is_refused(gradguard: Call, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()

    code, _, err = gradguard("train", "--model", "srn", "--log-dir", f"{file}/runs")

    assert code == 2
    assert err == (
        f"gradguard: error: log_dir '{file}/runs' cannot be written: Not a directory\n"
    )


def test_bug_keeps_its_traceback(
    gradguard: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(**_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("gradguard.experiments.resolve.resolve", resolve)

    with pytest.raises(ZeroDivisionError):
        gradguard("train", "--model", "srn")


def test_train_ends_with_the_tensorboard_command(
    gradguard: Call, tmp_path: Path
) -> None:
    code, out, err = gradguard(
        *("train", "--model", "srn", "--clip-norm", "5", "--max-epochs", "1"),
        *("--log-dir", str(tmp_path)),
    )

    assert code == 0
    assert err == ""
    assert "norm 5" in out
    assert out.splitlines()[-1] == f"tensorboard --logdir {tmp_path}"


def test_clip_flags_are_policies_in_their_order(
    gradguard: Call, tmp_path: Path
) -> None:
    code, out, err = gradguard(
        *("train", "--model", "srn", "--clip", "auto:20", "--clip", "zclip"),
        *("--clip-by-name", "*.bias=value:10", "--clip-by-name", "*=agc:0.5"),
        *("--max-epochs", "1", "--log-dir", str(tmp_path), "--on-nonfinite", "skip"),
        *("--on-spike", "skip:8"),
    )
    (written,) = tmp_path.glob("*/*/experiment.yaml")

    assert (code, err) == (0, "")
    assert "auto 20, then zclip 2.5, then by name" in " ".join(out.split())
    again = resolve(config=str(written))
    assert again.on_nonfinite == "skip"
    assert (again.on_spike.action, again.on_spike.sigma) == ("skip", 8)
    assert again.clipping == (
        "auto 20, then zclip 2.5, then by name (*.bias value 10; * agc 0.5)"
    )


def test_raise_ends_in_one_sentence(gradguard: Call, tmp_path: Path) -> None:
    code, _, err = gradguard(
        *("train", "--config", "mlp-exploding", "--on-nonfinite", "raise"),
        *("--max-epochs", "1", "--log-dir", str(tmp_path)),
    )

    assert code == 1
    assert err.startswith("gradguard: stopped: step ")
    assert "gradients are not finite" in err


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose directory and parameters have names that terminals are tempted by."""
    path = tmp_path_factory.mktemp("names") / "runs[bold]%d :fire: 日本 [/x]"
    write(path, records(np.ones((9, 2)), names=("[red]w.größe", ":smile: %s\\[b]")))
    return path


@pytest.mark.parametrize("columns", ["1", "7", "80", "300"])
def test_names_are_printed_as_they_are(
    odd: Path, gradguard: Call, columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)

    code, out, _ = gradguard("report", odd, "--layers")

    assert code == 0
    letters = "".join(out.split())
    for name in (odd.name, "[red]w.größe", ":smile: %s\\[b]"):
        if columns == "300":
            assert "".join(name.split()) in letters


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
@pytest.mark.parametrize("option", ["--layers", "--json"])
def test_name_that_the_terminal_has_no_letters_for_is_escaped(
    odd: Path, encoding: str, option: str
) -> None:
    done = subprocess.run(
        [*COMMAND, "report", odd, option],
        env={**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "200"},
        capture_output=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, b"")
    if option == "--layers":
        shown = "w.größe".encode(encoding, "backslashreplace")
        assert shown in done.stdout


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("option", ["--layers", "--json"])
def test_reader_that_leaves_ends_nothing(
    odd: Path, option: str, both: bool, unbuffered: str
) -> None:
    reading, writing = os.pipe()
    os.close(reading)

    done = subprocess.run(
        [*COMMAND, "report", odd, option, "--figure", odd.parent / "drawn.svg"],
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        check=False,
        stdout=writing,
        stderr=writing if both else subprocess.PIPE,
    )

    os.close(writing)
    assert (odd.parent / "drawn.svg").stat().st_size
    (odd.parent / "drawn.svg").unlink()
    assert done.returncode == 0
    assert b"Traceback" not in (done.stderr or b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_said_in_a_sentence() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, "configs"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert done.returncode == 1
    assert done.stderr == (
        "gradguard: error: standard output cannot be written: No space left on device\n"
    )


def test_home_is_found_in_every_path(
    odd: Path, gradguard: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(odd.parent))
    monkeypatch.setenv("USERPROFILE", str(odd.parent))

    code, _, err = gradguard("report", f"~/{odd.name}", "--html", "~/page.html")

    assert code == 0, err
    assert (odd.parent / "page.html").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="names are text there")
def test_name_on_disk_that_is_no_text_is_reported(tmp_path: Path) -> None:
    run = tmp_path / os.fsdecode(b"inv\xff")
    write(tmp_path / "valid", records(np.ones((9, 2))))
    (tmp_path / "valid").rename(run)

    code, _, err = in_a_process(
        "report", run, "--html", tmp_path / "a.html", "--figure", tmp_path / "a.svg"
    )

    assert code == 0, err
    assert "\\udcff" in (tmp_path / "a.html").read_text(encoding="utf-8")
