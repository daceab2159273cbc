"""Python in processes of its own, which find what tests share."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support import ROOT

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


PATIENCE = 60  # seconds


def wait_until(
    condition: Callable[[], object], process: "subprocess.Popen[Any]"
) -> None:
    """Wait for what a process will bring about; fail if it ends, or takes too long."""
    start = time.monotonic()
    while not condition():
        assert process.poll() is None, f"it has ended: {process.returncode}"
        assert time.monotonic() - start < PATIENCE, "it takes too long"
        time.sleep(0.01)


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def torchrun(
    module: str,
    *arguments: str | Path,
    processes: int = 2,
    timeout: int = 300,
    **environment: str,
) -> None:
    """Run a module in several processes, to its end."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run"),
            *(f"--nproc-per-node={processes}", f"--master-port={free_port()}"),
            *("-m", module, *map(str, arguments)),
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**ENVIRONMENT, **environment},
    )
    assert done.returncode == 0, done.stderr[-4000:]
