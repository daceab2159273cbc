"""Processes that each do one task after the other."""

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from gradguard.errors import ConfigError

# Not fork: torch's threads do not survive it.
_PROCESSES = multiprocessing.get_context("spawn")


def each(
    do: Callable[[Any], Any], tasks: Sequence[Any], *, jobs: int
) -> Generator[tuple[int, Any], None, None]:
    """Yield (position of the task, what `do` returned or raised), first done first.

    A process that dies costs the task it was at, whose value is then a RuntimeError;
    another process takes its place. Those still busy when the caller stops are killed.

    Args:
        do: What is done with a task; both are pickled, and so is what comes back.
        tasks: One argument for each call.
        jobs: Processes at a time, at least 1.
    """
    waiting = list(enumerate(tasks))[::-1]
    idle: list[_Worker] = []
    busy: dict[Connection, tuple[_Worker, int]] = {}
    try:
        while waiting or busy:
            while waiting and len(busy) < jobs:
                worker = idle.pop() if idle else _Worker(do)
                position, task = waiting.pop()
                worker.connection.send(task)
                busy[worker.connection] = worker, position
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)
                worker, position = busy.pop(ready)
                try:
                    value = ready.recv()
                    idle.append(worker)
                except (EOFError, ConnectionResetError):
                    value = worker.obituary()
                yield position, value
    finally:
        for worker in (*idle, *(worker for worker, _ in busy.values())):
            worker.process.kill()
            worker.process.join()  # it may be writing where the caller cleans up


class _Worker:
    """A process that takes tasks from a pipe, and ends when the pipe is closed."""

    def __init__(self, do: Callable[[Any], Any]) -> None:
        self.connection, theirs = _PROCESSES.Pipe()
        self.process = _PROCESSES.Process(target=_serve, args=(do, theirs), daemon=True)
        with _ctrl_c_ignored():
            self.process.start()
        theirs.close()

    def obituary(self) -> RuntimeError:
        """Wait for the process to end; return the error that says how it ended."""
        self.process.join()
        return RuntimeError(f"its process died, exit code {self.process.exitcode}")


@contextlib.contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    """Start child processes with SIGINT ignored: Ctrl-C is handled by the parent."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _serve(do: Callable[[Any], Any], connection: Connection) -> None:
    with contextlib.suppress(EOFError, BrokenPipeError):  # the parent is gone
        while True:
            task = connection.recv()
            try:
                value = do(task)
            except ConfigError as mistake:
                value = mistake
            except Exception as error:  # told with its task; the others go on
                value = RuntimeError(f"{type(error).__name__}: {error}")
            connection.send(value)
