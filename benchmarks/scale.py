"""How the cost grows: with the number of parameters, and with the number of steps.

    python benchmarks/scale.py            # Markdown, to paste into the docs
    python benchmarks/scale.py --board    # also how long TensorBoard takes to load a run

Without Lightning: the recorder that GradGuard has for each optimizer, and the files it writes.
"""

import json
import resource
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from measure import size_of
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from gradguard import ClipNorm
from gradguard.fit.context import context
from gradguard.fit.parts import Parts
from gradguard.fit.recorder import StepRecorder
from gradguard.fit.wanted import Wanted
from gradguard.gradients.columns import ParameterColumns
from gradguard.gradients.sharding import Shards
from gradguard.records.schema import Schema
from gradguard.tensorboard.reader import read_run

PARAMETERS = (10, 100, 1_000, 5_000, 20_000)
STEPS = (200, 1_000, 5_000)
_INTERVAL = 50
_MAX_NORM = 1e-3


class Run:
    """An optimizer whose gradients stay as they are, and the run that records it."""

    def __init__(self, count: int, directory: Path) -> None:
        self.parameters = [nn.Parameter(torch.ones(16)) for _ in range(count)]
        for parameter in self.parameters:
            parameter.grad = torch.ones(16)
        held: list[Tensor] = [*self.parameters]
        names = {parameter: f"layer.{i}.weight" for i, parameter in enumerate(held)}
        columns = ParameterColumns(held, names, Shards(held, None))
        optimizer = torch.optim.SGD(self.parameters, lr=0.1)
        self._board = SummaryWriter(directory)
        # What a recorder asks of a Trainer.
        trainer = SimpleNamespace(
            global_step=0,
            log_every_n_steps=_INTERVAL,
            precision_plugin=None,
            loggers=[SimpleNamespace(experiment=self._board)],
            is_global_zero=True,
            global_rank=0,
            callbacks=[self],
        )
        wanted = Wanted((ClipNorm(_MAX_NORM),), max_scalars=0)
        self._fit = context(trainer, nn.ParameterList(held), self, wanted, log=True)
        parts = Parts(columns, Schema(columns.names))
        self._recorder = StepRecorder(optimizer, self._fit, lambda _: parts)

    def step(self) -> None:
        """Clip and record as at one optimizer step, and write when that is due."""
        self._recorder.take_before()
        self._recorder.on_update(None)
        self._recorder.on_batch_end(None)

    def close(self) -> None:
        """Write what is queued."""
        assert self._fit.loggers
        self._fit.loggers.close()
        self._board.close()


def measured(count: int, steps: int, *, board: bool) -> dict[str, Any]:
    """Return the cost of recording `count` parameters over a number of steps."""
    with TemporaryDirectory() as scratch:
        directory = Path(scratch, "logs", "run")
        run = Run(count, directory)
        theirs = _seconds(
            lambda: nn.utils.clip_grad_norm_(run.parameters, _MAX_NORM), times=20
        )
        _seconds(run.step, times=steps // 5)
        resident = _resident()
        taken = _seconds(run.step, times=steps - steps // 5)
        run.close()
        start = time.perf_counter()
        read_run(directory)
        row = {
            "parameters": count,
            "steps": steps,
            "torch_us": 1e6 * theirs,
            "step_us": 1e6 * taken,
            "bytes": size_of(directory) / steps,
            "buffer_bytes": 8 * count * _INTERVAL,
            "grown_bytes": _resident() - resident,
            "reader_s": time.perf_counter() - start,
        }
        if board:
            row |= _board_seconds(directory.parent)
    return row


def _seconds(act: Callable[[], object], *, times: int) -> float:
    """Return the mean seconds of one call: the writes belong to it."""
    start = time.perf_counter()
    for _ in range(times):
        act()
    return (time.perf_counter() - start) / times


def _resident() -> int:
    """Return the bytes of memory this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _board_seconds(logs: Path) -> dict[str, float]:
    """Return how long TensorBoard takes from its start until the page shows the run."""
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from tests.support.board import board  # noqa: PLC0415 (the tests' own way to start one)

    taken = {}
    for loader in ("true", "false"):
        start = time.perf_counter()
        with board(logs, load_fast=loader) as tensorboard:
            tensorboard.wait(partial(_shows_a_run, tensorboard))
            taken[f"load_fast={loader}"] = time.perf_counter() - start
    return taken


def _shows_a_run(tensorboard: Any) -> bool:
    return bool(tensorboard.runs())


def main() -> None:
    """Measure growth in parameters, then growth in steps, and print both."""
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--board", action="store_true", help="load the runs as well")
    parser.add_argument("--json", action="store_true", help="print no table")
    parser.add_argument("--parameters", type=int, nargs="+", default=PARAMETERS)
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = [(count, options.steps[0]) for count in options.parameters]
    cases += [(options.parameters[0], steps) for steps in options.steps[1:]]
    rows = [measured(*case, board=options.board) for case in cases]
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    print("| " + " | ".join(rows[0]) + " |\n|" + "---:|" * len(rows[0]))
    for row in rows:
        print(
            "| "
            + " | ".join(
                np.format_float_positional(value, 3, trim="-") for value in row.values()
            )
            + " |"
        )


if __name__ == "__main__":
    main()
