"""Shared by every test: one torch thread per process, and the command line."""

import sys
from collections.abc import Callable

import pytest
import torch

from gradguard.cli import main


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Two workers on two cores: more threads would only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture
def gradguard(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[object, str, str]]:
    """Run `gradguard` in this process; give back exit code, stdout, stderr."""

    def run(*arguments: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["gradguard", *arguments])
        with pytest.raises(SystemExit) as ending:
            main()
        return ending.value.code, *capsys.readouterr()

    return run
