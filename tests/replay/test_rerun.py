"""A step runs again and again from the same start, and is left there."""

import torch
from torch import Tensor, nn

from gradguard.replay.rerun import Batches, Rerun, is_broken


class Noisy(nn.Module):
    """Each run draws random numbers, moves a running mean, and changes a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 1)
        )

    def step(self, batches: Batches) -> list[Tensor]:
        losses = [self.layers(batch).square().mean() for batch in batches.values()]
        for loss in losses:
            loss.backward()
        next(self.parameters()).data.add_(1)
        return losses


def test_every_run_ends_alike() -> None:
    module = Noisy()
    rerun = Rerun(module, module.step, {0: torch.randn(8, 3), 1: torch.randn(8, 3)})

    first, second = rerun(), rerun()

    assert first == second
    assert len(first.losses) == 2
    assert rerun.runs == 2


def test_outcome_tells_norms_and_names() -> None:
    module = nn.Linear(2, 1)

    def step(batches: Batches) -> Tensor:
        loss: Tensor = module(batches[0]).sum()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        return loss

    outcome = Rerun(module, step, {0: torch.tensor([[3.0, torch.inf], [4.0, 0.0]])})()

    assert outcome.nonfinite == ("weight",)
    assert outcome.norms_before["bias"] == 2.0
    assert is_broken(outcome)


def test_batch_that_the_step_changes_is_put_back() -> None:
    module = nn.Linear(3, 1)

    def step(batches: Batches) -> Tensor:
        loss: Tensor = module(batches[0].mul_(2)).sum()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        return loss

    rerun = Rerun(module, step, {0: torch.ones(2, 3)})

    assert rerun() == rerun()


def test_restoring_puts_everything_back() -> None:
    module = Noisy()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    rerun = Rerun(module, module.step, {0: torch.randn(8, 3)})

    rerun()
    rerun.restore()

    after = module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.grad is None for parameter in module.parameters())


def test_compiled_modules_run_eagerly() -> None:
    line = nn.Linear(2, 1)
    compiled = torch.compile(line, backend=refuse)

    def step(batches: Batches) -> Tensor:
        loss: Tensor = compiled(batches[0]).sum()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        return loss

    assert Rerun(line, step, {0: torch.ones(1, 2)})().nonfinite == ()


def refuse(*_: object) -> None:
    raise AssertionError("compiled")
