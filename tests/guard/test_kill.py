"""kill -9 at a random moment, then resume: as if nothing had happened."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from gradguard.tensorboard.reader import read_run
from tests.support.processes import wait_until

SCRIPT = """
import sys
from gradguard.experiments.run import run
from gradguard.experiments.resolve import resolve

log_dir, resume = sys.argv[1:]
experiment = resolve(
    config="srn",
    assignments=[
        "trainer.accelerator=cpu", "trainer.max_epochs=40", "data.shuffle=false",
        "clip=[{zclip: 1.0}, {auto: 80}]", "on_nonfinite=skip", f"log_dir={log_dir}",
    ],
)
run(experiment, resume=resume or None)
"""
CHECKPOINT = "srn/version_0/checkpoints/last.ckpt"


def start(log_dir: Path, resume: str = "") -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(log_dir), resume],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def finish(process: "subprocess.Popen[bytes]") -> None:
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_killed_and_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, seed: int
) -> None:
    finish(start(tmp_path / "whole"))
    process = start(tmp_path / "killed")
    saved = tmp_path / "killed" / CHECKPOINT
    wait_until(saved.exists, process)
    time.sleep(random.Random(seed).uniform(0, 0.5))
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL

    finish(start(tmp_path / "resumed", str(saved)))

    whole, resumed = (
        torch.load(tmp_path / name / CHECKPOINT, weights_only=True)
        for name in ("whole", "resumed")
    )
    torch.testing.assert_close(
        resumed["state_dict"], whole["state_dict"], rtol=0, atol=0
    )
    torch.testing.assert_close(resumed["gradguard"], whole["gradguard"], equal_nan=True)
    killed = read_run(tmp_path / "killed/srn/version_0")
    reference = read_run(tmp_path / "whole/srn/version_0")
    again = read_run(tmp_path / "resumed/srn/version_0")
    np.testing.assert_array_equal(killed.before, reference.before[: len(killed.steps)])
    assert again.steps[-1] == reference.steps[-1]
    assert again.steps[0] <= killed.steps[-1] + 1  # together they miss no step
