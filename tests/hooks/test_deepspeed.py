"""DeepSpeed's engine on the CPU: what gradguard records beside a loop in plain PyTorch.

Runs where DeepSpeed is installed, which nothing of gradguard asks for.
"""

import copy
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn.utils import clip_grad_norm_

from gradguard.tensorboard.reader import read_run
from tests.support import ROOT
from tests.support.deepspeed_ranks import (
    ENGINES,
    GROWTH_STEP,
    REFUSED,
    SKIPPED_STEP,
    SKIPS,
)
from tests.support.processes import torchrun
from tests.support.ranks import STEPS, THRESHOLD, Mode, Net, batch

pytest.importorskip(
    "deepspeed", reason="DeepSpeed is not installed, and gradguard does not need it"
)

SCRIPT = "tests.support.deepspeed_ranks"
ON_CPU: Any = {"timeout": 500, "DS_ACCELERATOR": "cpu"}
DOCS = ROOT / "docs/modes.md"
DTYPES = {
    "32-true": torch.float32,
    "bf16-mixed": torch.bfloat16,
    "16-mixed": torch.float16,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("engines")
    torchrun(SCRIPT, directory, *ENGINES, **ON_CPU)
    return directory


@cache
def plain_loop(mode: Mode) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Train float32 weights by gradients taken in the mode's precision, one rank each."""
    dtype = DTYPES[mode.precision]
    model = Net(mode).to(dtype).float()  # the engine starts from rounded weights
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.5, momentum=0.9)
    before, after = [], []

    def norms() -> list[float]:
        return [float(p.grad.double().norm()) for p in parameters if p.grad is not None]

    for step in range(STEPS):
        twins = [copy.deepcopy(model).to(dtype) for _ in range(2)]
        for rank, twin in enumerate(twins):
            twin.zero_grad()
            for micro in range(mode.accumulate):
                x = batch(step * mode.accumulate + micro, rank).to(dtype)
                # Lightning divides the loss by the window, and the engine again.
                loss = twin.loss(x) / mode.accumulate**2
                loss.backward()  # type: ignore[no-untyped-call]
        for p, *parts in zip(parameters, *(t.parameters() for t in twins), strict=True):
            p.grad = torch.stack([part.grad for part in parts]).float().mean(0)
        before.append(norms())
        if mode.precision == "16-mixed" and step == GROWTH_STEP:
            for p in parameters:  # the engine divides by the scale it has just doubled
                p.grad = None if p.grad is None else p.grad / 2
        if mode.clip:
            clip_grad_norm_(parameters, THRESHOLD["norm"])
        after.append(norms())
        optimizer.step()
    return np.array(before), np.array(after)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
def test_norms_are_those_of_the_whole_gradients(runs: Path, name: str) -> None:
    mode = ENGINES[name]
    before, after = plain_loop(mode._replace(strategy=Mode().strategy))
    tolerance = 1e-5 if mode.precision == "32-true" else 1e-2

    run = read_run(runs / name)

    assert run.names == tuple(name for name, _ in Net(mode).named_parameters())
    assert run.steps.tolist() == list(range(STEPS))
    np.testing.assert_allclose(run.before, before, rtol=tolerance)
    np.testing.assert_allclose(run.after, after, rtol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
def test_all_ranks_measure_the_same_and_rank_zero_writes(runs: Path, name: str) -> None:
    first, second = (np.load(f"{runs / name}-{rank}.npz") for rank in range(2))

    for key in ("names", "before", "after"):
        np.testing.assert_array_equal(first[key], second[key])
    assert len(list((runs / name).glob("*tfevents*"))) == 1


@pytest.mark.slow
def test_a_step_the_engine_skips_is_a_record_without_after(tmp_path: Path) -> None:
    torchrun(SCRIPT, tmp_path, *SKIPS, **ON_CPU)

    run = read_run(tmp_path / "zero2-skips")
    skipped = [step == SKIPPED_STEP for step in range(STEPS)]
    assert run.skipped.tolist() == skipped
    assert run.nonfinite.tolist() == skipped
    assert np.isnan(run.after[SKIPPED_STEP]).all()
    assert np.isfinite(run.after[SKIPPED_STEP + 1 :]).all()


@pytest.mark.slow
def test_clipping_by_gradguard_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="cannot clip under DeepSpeed"):
        torchrun(SCRIPT, tmp_path, *REFUSED, **ON_CPU)


def test_documented_modes_are_the_tested_ones() -> None:
    _, section = DOCS.read_text().split("## DeepSpeed\n", 1)
    documented = re.findall(r"`(zero\d[\w-]*)`", section.split("\n## ", 1)[0])

    assert sorted(documented) == sorted([*ENGINES, *SKIPS, *REFUSED])
