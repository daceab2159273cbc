"""Running `gradguard ...`: in this process, or in one of its own."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from gradguard.cli import main

# Takes what stands behind `gradguard`; returns exit code, stdout and stderr.
Call: TypeAlias = Callable[..., tuple[object, str, str]]

COMMAND = (sys.executable, "-m", "gradguard")


def in_this_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    def call(*arguments: object) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["gradguard", *map(str, arguments)])
        with pytest.raises(SystemExit) as ending:
            main()
        return ending.value.code, *capsys.readouterr()

    return call


def in_a_process(*arguments: object) -> tuple[int, str, str]:
    """Run it to its end; return exit code, stdout and stderr."""
    command = [*COMMAND, *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def started(*arguments: object, **options: Any) -> "subprocess.Popen[str]":
    """Run it in a process, whose stderr can be read and whose stdout goes nowhere."""
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
