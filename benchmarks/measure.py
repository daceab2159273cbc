"""Train two arms in turns in one process, and take the time of each.

Each arm is a Trainer in a thread of its own, of which one runs at a time: a few steps of
the one, a few of the other, then the other way round. Whatever else the machine does falls
on both alike. So many steps make a pair of blocks, which gives a ratio of its own.
"""

import logging
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from arms import BASELINE, Arm
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from models import Endless, Workload
from numpy.typing import NDArray
from typing_extensions import override

# Steps of one arm at a time. The events of an interval are written by another thread, so
# the warm-up moves the steps that write to the middle of a turn.
_TURN = 10
_WARM_UP = 25


@dataclass(frozen=True)
class Block:
    """The wall and CPU time of a block of steps.

    Attributes:
        steps: Seconds of each whole step, from batch start to batch start, `[S]`.
        main: CPU seconds of the training thread, of all steps together.
        others: CPU seconds of all other threads, writers of events above all.
    """

    steps: NDArray[np.float64]
    main: float
    others: float


class Turns(Callback):
    """Train in a thread, a block of steps whenever another thread asks for one."""

    def __init__(self, data: Endless) -> None:
        self._data = data
        self._asked, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._left = 0
        self._stamps: list[float] = []
        self._cpu = (0.0, 0.0)
        self.block: Block | None = None
        self.error: BaseException | None = None

    def train(self, steps: int) -> Block:
        """Let the thread train a block of steps; return the block's times."""
        self._left = steps
        self._asked.release()
        self._done.acquire()
        if self.error:
            raise self.error
        assert self.block is not None
        return self.block

    @override
    def on_train_batch_start(self, *_: Any) -> None:
        self._stamps.append(time.perf_counter())
        if self._data.over or len(self._stamps) <= self._left:
            return
        if self._stamps[1:]:
            self._finish()
        self._asked.acquire()
        self._data.over = self._left == 0
        self._cpu = time.thread_time(), time.process_time()
        self._stamps = [time.perf_counter()]

    def _finish(self) -> None:
        main = time.thread_time() - self._cpu[0]
        everyone = time.process_time() - self._cpu[1]
        self.block = Block(np.diff(self._stamps), main, everyone - main)
        self._done.release()

    def run(self, trainer: Trainer, module: LightningModule) -> None:
        """Train until asked for no more steps; the body of the thread."""
        try:
            trainer.fit(module, self._data)
        except BaseException as error:  # for the thread that waits
            self.error = error
        self._done.release()


@contextmanager
def training(arm: Arm, workload: Workload, directory: Path) -> Iterator[Turns]:
    """Start the thread of an arm, which trains when asked to."""
    seed_everything(0, verbose=False)
    module = workload.model()
    turns = Turns(Endless(workload.batches()))
    trainer = arm.trainer(
        first=[turns],
        logger=TensorBoardLogger(directory),
        default_root_dir=directory,
        log_every_n_steps=workload.log_every,
    )
    thread = threading.Thread(target=turns.run, args=(trainer, module))
    thread.start()
    try:
        yield turns
    finally:
        if not turns.error:
            turns.train(0)
        thread.join()


@dataclass(frozen=True)
class Comparison:
    """Pairs of blocks, and the bytes both wrote per step."""

    pairs: list[tuple[Block, Block]]
    bytes_per_step: tuple[float, float]

    def ratios(self, what: str) -> NDArray[np.float64]:
        """Return arm / baseline of each pair: of "median", "mean", or CPU of "main"."""
        taken = [(_taken(base, what), _taken(arm, what)) for base, arm in self.pairs]
        return np.array([arm / base for base, arm in taken])


def joined(comparisons: list[Comparison]) -> Comparison:
    """Return the pairs of all comparisons, with the bytes per step of the first."""
    pairs = [pair for each in comparisons for pair in each.pairs]
    return Comparison(pairs, comparisons[0].bytes_per_step)


def _taken(block: Block, what: str) -> float:
    if what == "main":
        return block.main
    return float(np.median(block.steps) if what == "median" else block.steps.mean())


def compare(arm: Arm, workload: Workload, *, pairs: int, block: int) -> Comparison:
    """Train the baseline and an arm in turns."""
    with TemporaryDirectory() as scratch:
        where = Path(scratch, "baseline"), Path(scratch, "arm")
        with (
            training(BASELINE, workload, where[0]) as base,
            training(arm, workload, where[1]) as other,
        ):
            for turns in (base, other):
                turns.train(min(block, _WARM_UP))
            taken = [_alternate(base, other, steps=block) for _ in range(pairs)]
        steps = pairs * block + min(block, _WARM_UP)
        written = tuple(size_of(directory) / steps for directory in where)
    return Comparison(taken, (written[0], written[1]))


def _alternate(base: Turns, arm: Turns, *, steps: int) -> tuple[Block, Block]:
    """Train a block of both arms, a turn at a time; they begin a turn alternately."""
    parts: dict[Turns, list[Block]] = {base: [], arm: []}
    turn = min(_TURN, steps)
    for number in range(steps // turn):
        for turns in (base, arm) if number % 2 else (arm, base):
            parts[turns].append(turns.train(turn))
    return _joined(parts[base]), _joined(parts[arm])


def _joined(parts: list[Block]) -> Block:
    return Block(
        np.concatenate([part.steps for part in parts]),
        sum(part.main for part in parts),
        sum(part.others for part in parts),
    )


def quiet() -> None:
    """Leave out what Lightning says at the start of every fit."""
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def size_of(directory: Path) -> int:
    """Return the bytes of all files below a directory."""
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
