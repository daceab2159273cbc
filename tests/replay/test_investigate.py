"""All that is found out about a step, at once; and in JSON."""

import json
from dataclasses import asdict

import pytest
import torch
from lightning.pytorch.demos import Transformer
from torch import Tensor, nn
from torch.nn import functional

from gradguard.output import as_json
from gradguard.replay.cause import Replay
from gradguard.replay.investigate import investigate
from gradguard.replay.rerun import Batches, Rerun

X = torch.arange(1.0, 13.0).reshape(4, 3)


class Logged(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.line(x.log())
        return y.square().mean()


def investigated(x: Tensor, *, spike: bool = False) -> Replay:
    module = Logged()

    def step(batches: Batches) -> list[Tensor]:
        losses = [module(batch) for batch in batches.values()]
        for loss in losses:
            loss.backward()
        return losses

    return investigate(Rerun(module, step, {0: x}), spike=spike)


def with_zero() -> Tensor:
    x = X.clone()
    x[2, 1] = 0
    return x


def test_broken_step_is_told_whole() -> None:
    found = investigated(with_zero())

    assert found.cause is not None
    assert (found.cause.name, found.cause.direction) == ("log", "forward")
    [given] = found.cause.inputs
    assert (given.elements, given.zeros, given.smallest, given.largest) == (
        12,
        1,
        0,
        12,
    )
    assert (found.cause.output.minus_inf, found.cause.output.nan) == (1, 0)
    assert found.samples is not None
    assert [culprit.index for culprit in found.samples.culprits] == [2]
    assert found.precision is not None
    assert found.precision.verdict == "values"


def test_healthy_step_has_nothing_to_tell() -> None:
    found = investigated(X)

    assert (found.cause, found.samples, found.precision) == (None, None, None)
    assert found.outcome.nonfinite == ()


def test_spike_has_samples_and_no_cause() -> None:
    found = investigated(X.exp(), spike=True)

    assert (found.cause, found.precision) == (None, None)
    assert found.samples is not None
    assert found.samples.count == 4


@pytest.mark.parametrize("x", [with_zero(), X])
def test_all_of_it_goes_into_json(x: Tensor) -> None:
    found = json.loads(as_json(asdict(investigated(x))))

    assert set(found) == {"outcome", "cause", "samples", "precision"}


def test_progress_is_told_of_every_run() -> None:
    module, seen = Logged(), []

    def step(batches: Batches) -> Tensor:
        loss: Tensor = module(batches[0])
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        return loss

    rerun = Rerun(module, step, {0: with_zero()})
    investigate(rerun, progress=lambda: seen.append(rerun.runs))

    assert seen == list(range(1, rerun.runs + 1))


@pytest.mark.parametrize(
    ("plant", "kind", "name", "module"),
    [
        ("", None, None, None),
        ("nan", "weight", "decoder.weight", "decoder"),
        ("grown", "operation", "linear", "transformer.decoder.layers.1.linear1"),
    ],
)
def test_transformer_of_lightning(
    plant: str, kind: str | None, name: str | None, module: str | None
) -> None:
    torch.manual_seed(0)
    model = Transformer(vocab_size=20, ninp=8, nhead=2, nhid=8)
    if plant == "nan":
        model.decoder.weight.data[3, 3] = torch.nan
    if plant == "grown":
        signs = torch.tensor([1.0, -1.0]).repeat(4)
        model.transformer.decoder.layers[1].linear1.weight.data[:] = 3e38 * signs
    batch = torch.randint(20, (2, 5)), torch.randint(20, (2, 5))

    def step(batches: Batches) -> list[Tensor]:
        losses = []
        for inputs, target in batches.values():
            output = model(inputs, target)
            losses.append(functional.nll_loss(output, target.view(-1)))
            losses[-1].backward()  # type: ignore[no-untyped-call]  # torch's
        return losses

    cause = investigate(Rerun(model, step, {0: batch})).cause

    assert (cause and cause.kind, cause and cause.name) == (kind, name)
    assert (cause and cause.module) == module
    if cause:
        assert cause.line is not None
        assert cause.line.file.endswith("transformer.py")
