"""A fault on one rank: all skip the same step, and stay as alike as they were."""

from pathlib import Path

import pytest
import torch

from gradguard.tensorboard.reader import read_run
from tests.support.fault_ranks import CASES, FAULTY, NAN_FAULTS, SPIKE_FAULTS, UNSEEN
from tests.support.processes import torchrun

faults = pytest.mark.parametrize("fault", NAN_FAULTS + SPIKE_FAULTS)
faults_of_cases = pytest.mark.parametrize(
    ("mode", "policy", "fault"),
    [
        (mode, policy, fault)
        for mode, policy in CASES
        for fault in NAN_FAULTS + SPIKE_FAULTS
        if (mode, fault) not in UNSEEN
    ],
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("ranks")
    torchrun("tests.support.fault_ranks", directory)
    return directory


def weights(runs: Path, name: str, rank: int) -> list[torch.Tensor]:
    loaded: list[torch.Tensor] = torch.load(runs / f"{name}-{rank}.pt")
    return loaded


@pytest.mark.slow
@faults_of_cases
@pytest.mark.parametrize("rank", [0, 1])
def test_each_rank_has_the_weights_of_a_run_without_the_bad_batch(
    runs: Path, mode: str, policy: str, fault: str, rank: int
) -> None:
    skipped = weights(runs, f"{mode}-{policy}-{fault}", rank)
    never = weights(runs, f"{mode}-{policy}-never", rank)

    assert all(map(torch.equal, skipped, never))


@pytest.mark.slow
@faults_of_cases
def test_one_step_is_refused(runs: Path, mode: str, policy: str, fault: str) -> None:
    run = read_run(runs / f"{mode}-{policy}-{fault}")

    assert run.steps[run.refused].tolist() == [FAULTY]


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["observed", "auto", "zclip"])
@faults
def test_replicas_stay_identical(runs: Path, policy: str, fault: str) -> None:
    one, other = (weights(runs, f"ddp-{policy}-{fault}", rank) for rank in (0, 1))

    assert all(map(torch.equal, one, other))
