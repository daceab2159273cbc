"""A real TensorBoard over a log directory, and the runs to show in it."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

import numpy as np
from numpy.typing import NDArray

from gradguard.records import old_clips
from gradguard.records.recording import STATISTICS, Epochs
from gradguard.records.records import Records, from_stored
from gradguard.records.schema import Schema
from gradguard.tensorboard.writer import EventWriter
from tests.support.event_files import new_event_file

# With the Rust data server, and with TensorBoard's own loader in Python.
LOADERS = ("true", "false")
PATIENCE = 60  # seconds


class Board:
    """A TensorBoard that answers."""

    def __init__(self, url: str, process: "subprocess.Popen[str]") -> None:
        self.url = url
        self.process = process

    def get(self, path: str, **query: Any) -> tuple[int, bytes]:
        """Return the status and the body of what a path serves."""
        try:
            with urlopen(f"{self.url}{path}?{urlencode(query)}") as response:
                return response.status, response.read()
        except HTTPError as error:
            return error.code, error.read()

    def ask(self, route: str, **query: Any) -> Any:
        """Return what a route of the page says, in Python's own types."""
        status, body = self.get(f"data/plugin/gradguard/{route}", **query)
        assert status == 200, body.decode()
        return json.loads(body)

    def wait(self, until: Callable[[], bool]) -> None:
        """Wait until the board has read what it should."""
        start = time.monotonic()
        while not until():
            assert time.monotonic() - start < PATIENCE
            time.sleep(0.1)

    def runs(self) -> list[str]:
        """Return the names of the runs the page offers."""
        return [source["run"] for source in self.ask("sources")["sources"]]

    @property
    def peak_memory(self) -> int:
        """Largest resident memory of the process so far, bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1])  # type: ignore[index]  # always there


@contextmanager
def board(
    logdir: Path, *options: str, load_fast: str = "true", python: tuple[str, ...] = ()
) -> Iterator[Board]:
    """Serve a log directory, and look for new events every second."""
    command = [sys.executable, *(python or ("-m", "tensorboard.main"))]
    command += ["--logdir", str(logdir), "--port", "0", "--reload_interval", "1"]
    command += ["--load_fast", load_fast, *options]
    said = logdir.parent / f"{logdir.name}.log"
    with said.open("w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, text=True, cwd=os.sep
        )
    try:
        yield Board(_url(process, said), process)
    finally:
        process.terminate()
        process.wait()


def _url(process: "subprocess.Popen[str]", said: Path) -> str:
    start = time.monotonic()
    while not (found := re.search(r"http://localhost:\d+/", said.read_text())):
        assert process.poll() is None, said.read_text()
        assert time.monotonic() - start < PATIENCE
        time.sleep(0.1)
    return found[0]


def records(
    before: NDArray[np.floating],
    *,
    coefficient: float = 1.0,
    first: int = 0,
    names: tuple[str, ...] | None = None,
) -> Records:
    """Return records of norms `[S, P]`, -1 where there is no gradient."""
    norms = np.stack([before, np.where(before < 0, before, before * coefficient)], -1)
    return from_stored(
        names or tuple(f"layer.{i}.weight" for i in range(before.shape[1])),
        np.arange(first, first + len(before), dtype=np.int64),
        norms.astype(np.float32),
        np.zeros(len(before), np.float32),
    )


def write(
    run: Path,
    *parts: Records,
    clip: str = "",
    optimizer: str = "",
    epochs: Epochs | None = None,
) -> None:
    """Write each part as one event of a run, and the epochs after the last.

    `clip` is what clips, in code.
    """
    clips = old_clips.read(clip)
    with new_event_file(run) as sink:
        writer = EventWriter(sink, run, max_scalars=50)
        for part in parts:
            writer.write(Schema(part.names, optimizer, clips), part, {})
        if epochs:
            step = int(parts[-1].steps[-1]) + 1
            writer.write_epochs(Schema(epochs.names, optimizer, clips), epochs, step)
        writer.close()


def some_epochs(names: tuple[str, ...], *, first: int = -1, last: int = 5) -> Epochs:
    """Return made-up statistics by epoch, each number another; the start lacks a ratio."""
    numbers = np.arange(first, last + 1)
    shape = (len(numbers), len(names), len(STATISTICS))
    values = 1 + np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    values[numbers < 0, :, STATISTICS.index("update_ratio")] = np.inf
    return Epochs(names, numbers, values)


def thousand_with_a_spike(run: Path, *, step: int, column: int) -> None:
    """Write 1000 parameters over 5000 steps; one norm is 1000 times the others'."""
    before = np.random.default_rng(0).lognormal(0, 0.2, (5000, 1000))
    before[step, column] = 1000
    parts = (records(before[i : i + 50], first=i) for i in range(0, 5000, 50))
    write(run, *parts)
