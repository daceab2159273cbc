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

from gradguard.tensorboard.reader import read_recordings, read_run
from tests.support.documents import rows_below
from tests.support.oracle import Loop, Seen, by_nothing, to_norm, to_value
from tests.support.processes import ENVIRONMENT, free_port, torchrun
from tests.support.ranks import ALONE, MODES, STEPS, THRESHOLD, Mode, Net, batch

SCRIPT = "tests.support.ranks"
TWO = [name for name, mode in MODES.items() if mode.processes == 2]
CLIPS = {
    "": by_nothing,
    "norm": to_norm(THRESHOLD["norm"]),
    "value": to_value(THRESHOLD["value"]),
}
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
def plain_loop(mode: Mode) -> Seen:
    """Train on the batches of all ranks, which are one window together."""
    ranks = range(data_ranks(mode))
    micro_batches = range(STEPS * mode.accumulate)
    batches = [batch(number, rank) for number in micro_batches for rank in ranks]
    window = mode.accumulate * len(ranks)
    loop = Loop(CLIPS[mode.clip], window=window, statistics=True)
    return loop.run(Net(mode), batches)[""]


def tolerance(mode: Mode) -> float:
    return 4e-2 if mode.precision.startswith("bf16") else 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", MODES)
def test_norms_are_those_of_the_whole_gradients(runs: Path, name: str) -> None:
    mode = MODES[name]
    seen = plain_loop(mode._replace(precision="32-true"))

    run = read_run(runs / name)

    assert run.names == tuple(name for name, _ in Net(mode).named_parameters())
    assert seen.agree_with(run, rtol=tolerance(mode))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODES)
def test_statistics_are_those_of_the_whole_parameters(runs: Path, name: str) -> None:
    mode = MODES[name]
    expected = plain_loop(mode._replace(precision="32-true")).epochs(STEPS)
    size = np.nanmax(abs(expected), axis=1, keepdims=True)  # means may cancel

    epochs = read_recordings(runs / name)[""].epochs

    assert epochs is not None
    assert epochs.epochs.tolist() == [-1, 0]
    np.testing.assert_allclose(
        epochs.values / size, expected / size, rtol=0, atol=tolerance(mode)
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", MODES)
def test_all_ranks_measure_the_same(runs: Path, name: str) -> None:
    ranks = [np.load(file) for file in sorted(runs.glob(f"{name}-[0-3].npz"))]

    assert len(ranks) == MODES[name].processes
    for rank in ranks:
        for key in ("names", "before", "after"):
            np.testing.assert_array_equal(rank[key], ranks[0][key])


@pytest.mark.slow
@pytest.mark.parametrize("name", MODES)
def test_one_rank_writes(runs: Path, name: str) -> None:
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

    run = read_run(tmp_path / "ddp-two-nodes")
    assert plain_loop(Mode(clip="norm")).agree_with(run, rtol=1e-5)


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

    run = read_run(tmp_path / "ddp-spawn")
    assert plain_loop(Mode(clip="norm")).agree_with(run, rtol=1e-5)
