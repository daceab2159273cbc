"""Shared by every test: one torch thread per process, and no stray environment."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Two workers on two cores: more threads would only wait for each other."""
    torch.set_num_threads(1)
