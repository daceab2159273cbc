"""The first operation that broke a step is named, and nothing where nothing broke."""

from typing import Any

import pytest
import torch
from torch import Tensor

from gradguard.replay.cause import Cause
from gradguard.replay.rerun import Batches, Rerun
from gradguard.replay.trace import trace
from tests.support.legal import HEALTHY, Healthy
from tests.support.planted import FAULTS, Fault


def cause_of(case: Fault | Healthy) -> Cause | None:
    module = case.module()

    def step(batches: Batches) -> list[Tensor]:
        return [run(batch) for batch in batches.values()]

    def run(batch: Any) -> Tensor:
        enabled = case.autocast is not None
        with torch.autocast("cpu", dtype=case.autocast, enabled=enabled):
            loss: Tensor = module(batch)
        (loss * case.loss_scale).backward()  # type: ignore[no-untyped-call]  # torch's
        return loss

    return trace(Rerun(module, step, case.batches), loss_scale=case.loss_scale)


@pytest.mark.filterwarnings("ignore:var")
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.title)
def test_planted_fault_is_named(fault: Fault) -> None:
    cause = cause_of(fault)

    assert cause is not None
    assert (cause.kind, cause.name, cause.direction) == (
        fault.kind,
        fault.name,
        fault.direction,
    )
    assert cause.module == fault.path
    assert cause.line is not None
    assert cause.line.text == fault.line
    assert cause.hidden_by == fault.hidden_by
    assert cause.micro_batch == fault.micro_batch
    assert cause.rows == fault.rows


@pytest.mark.parametrize("healthy", HEALTHY, ids=lambda healthy: healthy.title)
def test_nothing_broke_in_a_healthy_step(healthy: Healthy) -> None:
    assert cause_of(healthy) is None
