"""Several processes against one: the norms of the whole gradients, on all ranks alike.

`ranks.py` trains in processes of its own, one launch per number of processes; the oracle
is a plain loop in this process over the batches of all ranks.
"""

import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from gradguard.tensorboard.reader import read_recordings, read_run
from tests.support.documents import rows_below
from tests.support.processes import ENVIRONMENT, free_port, torchrun
from tests.support.ranks import ALONE, MODES, STEPS, THRESHOLD, Mode, Net, batch

SCRIPT = "tests.support.ranks"
TWO = [name for name, mode in MODES.items() if mode.processes == 2]
FOUR = [name for name, mode in MODES.items() if mode.processes == 4]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("ranks")
    torchrun(SCRIPT, directory, *TWO)
    torchrun(SCRIPT, directory, *FOUR, processes=4)
    return directory


def data_ranks(mode: Mode) -> int:
    """Processes that see different batches: not those that share one by TP."""
    return 1 if mode.strategy.__name__ == "tp" else 2


@cache
def plain_loop(mode: Mode) -> tuple[NDArray[np.float64], ...]:
    """Train on the batches of all ranks together.

    Return the norms before and after, and the statistics at the start and the end.
    """
    model = Net(mode)
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.5, momentum=0.9)
    before, after, rows = [], [], []
    num_batches = mode.accumulate * data_ranks(mode)

    def norms() -> list[float]:
        return [
            np.nan if p.grad is None else float(p.grad.double().norm())
            for p in parameters
        ]

    def statistics() -> NDArray[np.float64]:
        """Take the step; return what is known of the weights before, and of it."""
        old = [p.detach().double() for p in parameters]
        gradients = [
            torch.full((1,), torch.nan) if p.grad is None else p.grad.double()
            for p in parameters
        ]
        optimizer.step()
        return np.array(
            [
                [
                    *(w.mean(), w.std(correction=0)),
                    *(g.mean(), g.std(correction=0), g.abs().mean()),
                    (p.detach() - w).norm() / w.norm(),
                ]
                for w, g, p in zip(old, gradients, parameters, strict=True)
            ]
        )

    for step in range(STEPS):
        optimizer.zero_grad()
        for micro in range(mode.accumulate):
            for rank in range(data_ranks(mode)):
                x = batch(step * mode.accumulate + micro, rank)
                (model.loss(x) / num_batches).backward()  # type: ignore[no-untyped-call]
        before.append(norms())
        if mode.clip == "norm":
            clip_grad_norm_(parameters, THRESHOLD["norm"])
        elif mode.clip == "value":
            clip_grad_value_(parameters, THRESHOLD["value"])
        after.append(norms())
        rows.append(statistics())
    last = rows[-1].copy()
    last[:, :2] = [
        [p.detach().mean(), p.detach().std(correction=0)] for p in parameters
    ]
    return np.array(before), np.array(after), np.array([rows[0], last])


@pytest.mark.slow
@pytest.mark.parametrize("name", MODES)
def test_norms_are_those_of_the_whole_gradients(runs: Path, name: str) -> None:
    mode = MODES[name]
    before, after, _ = plain_loop(mode._replace(precision="32-true"))
    tolerance = 4e-2 if mode.precision.startswith("bf16") else 1e-5

    run = read_run(runs / name)

    assert run.names == tuple(name for name, _ in Net(mode).named_parameters())
    assert run.steps.tolist() == list(range(STEPS))
    np.testing.assert_allclose(run.before, before, rtol=tolerance)
    np.testing.assert_allclose(run.after, after, rtol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODES)
def test_statistics_are_those_of_the_whole_parameters(runs: Path, name: str) -> None:
    mode = MODES[name]
    *_, expected = plain_loop(mode._replace(precision="32-true"))
    size = np.nanmax(abs(expected), axis=1, keepdims=True)  # means may cancel
    tolerance = 4e-2 if mode.precision.startswith("bf16") else 1e-5

    epochs = read_recordings(runs / name)[""].epochs

    assert epochs is not None
    assert epochs.epochs.tolist() == [-1, 0]
    np.testing.assert_allclose(
        epochs.values / size, expected / size, rtol=0, atol=tolerance
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", MODES)
def test_all_ranks_measure_the_same_and_rank_zero_writes(runs: Path, name: str) -> None:
    ranks = [np.load(file) for file in sorted(runs.glob(f"{name}-[0-3].npz"))]

    assert len(ranks) == MODES[name].processes
    for rank in ranks:
        for key in ("names", "before", "after"):
            np.testing.assert_array_equal(rank[key], ranks[0][key])
    assert len(list((runs / name).glob("*tfevents*"))) == 1


def test_documented_modes_are_the_tested_ones() -> None:
    documented = list(rows_below("Several processes"))

    assert sorted(documented) == sorted([*MODES, *ALONE])


@pytest.mark.slow
def test_two_nodes_are_two_ranks(tmp_path: Path) -> None:
    port = free_port()
    nodes = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "torch.distributed.run"),
                *("--nnodes=2", f"--node-rank={node}", "--nproc-per-node=1"),
                *("--master-addr=127.0.0.1", f"--master-port={port}"),
                *("-m", SCRIPT, str(tmp_path), "ddp-two-nodes"),
            ],
            env=ENVIRONMENT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for node in (0, 1)
    ]
    errors = [node.communicate(timeout=120)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], errors[0][-4000:]
    before, *_ = plain_loop(Mode(clip="norm"))

    np.testing.assert_allclose(
        read_run(tmp_path / "ddp-two-nodes").before, before, rtol=1e-5
    )


@pytest.mark.slow
def test_spawned_processes_write_too(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", SCRIPT, str(tmp_path), "ddp-spawn"],
        env=ENVIRONMENT,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    before, after, _ = plain_loop(Mode(clip="norm"))

    run = read_run(tmp_path / "ddp-spawn")
    np.testing.assert_allclose(run.before, before, rtol=1e-5)
    np.testing.assert_allclose(run.after, after, rtol=1e-5)
