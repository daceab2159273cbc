"""Python in processes of its own, which find what tests share."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.support import ROOT

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


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
