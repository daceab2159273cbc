"""Shared by every test: one torch thread per process, and the command line."""

import pytest
import torch

from tests.support.command_line import Call, in_this_process


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Two workers on two cores: more threads would only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture
def gradguard(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    """Run `gradguard ...` in this process; give back exit code, stdout, stderr."""
    return in_this_process(monkeypatch, capsys)
