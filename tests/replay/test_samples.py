"""Which samples break a step, or carry its gradient; and where that cannot be said."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gradguard.replay.rerun import Batches, Rerun
from gradguard.replay.samples import samples

Loss = Callable[[nn.Module, Any], Tensor]


def squared_error(module: nn.Module, batch: dict[str, Any]) -> Tensor:
    return functional.mse_loss(module(batch["x"].log()), batch["y"])


def net(*layers: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), *layers, nn.Tanh(), nn.Linear(4, 1))


def batch(size: int = 12, **broken: int) -> dict[str, Any]:
    """Rows of random inputs, from which samples with a logarithm of -1 are made."""
    generator = torch.Generator().manual_seed(0)
    x = 1 + torch.rand(size, 3, generator=generator)
    for sample in broken.values():
        x[sample, 1] = -1
    return {"x": x, "y": x.sum(dim=1, keepdim=True), "names": list("abcdefghijkl")}


def rerun(
    module: nn.Module, *batches: Any, loss: Loss = squared_error, parts: int = 1
) -> Rerun:
    def step(given: Batches) -> list[Tensor]:
        losses = [loss(module, one) / parts for one in given.values()]
        for one in losses:
            one.backward()  # type: ignore[no-untyped-call]  # torch's
        return losses

    return Rerun(module, step, dict(enumerate(batches)))


def indices(again: Rerun, *, spike: bool = False) -> list[tuple[int, int]]:
    found = samples(again, spike=spike)
    return [(culprit.micro_batch, culprit.index) for culprit in found.culprits]


def test_samples_that_break_are_found() -> None:
    found = samples(rerun(net(), batch(first=3, second=8)))

    assert [culprit.index for culprit in found.culprits] == [3, 8]
    assert all(culprit.nonfinite for culprit in found.culprits)
    assert (found.count, found.caveat, found.dropout_off) == (12, "", False)


def test_one_bad_sample_takes_few_runs() -> None:
    found = samples(rerun(net(), batch(size=256, only=200)))

    assert [culprit.index for culprit in found.culprits] == [200]
    halvings = math.log2(256)
    assert found.runs <= 2 * halvings + 10


def test_samples_are_found_in_every_batch_of_a_window() -> None:
    again = rerun(net(), batch(), batch(a=2), batch(b=11), parts=3)

    assert indices(again) == [(1, 2), (2, 11)]


def test_samples_are_found_with_dropout_turned_off() -> None:
    found = samples(rerun(net(nn.Dropout(0.5)), batch(only=5)))

    assert [culprit.index for culprit in found.culprits] == [5]
    assert found.dropout_off
    assert found.caveat == ""


def test_samples_are_found_beside_others_under_batch_norm() -> None:
    found = samples(rerun(net(nn.BatchNorm1d(4)), batch(only=5)))

    assert [culprit.index for culprit in found.culprits] == [5]
    assert "act together" in found.caveat


def spread(module: nn.Module, batch: dict[str, Any]) -> Tensor:
    outputs: Tensor = module(batch["x"].log())
    return 1 / outputs.var()


@pytest.mark.filterwarnings("ignore:var")
def test_samples_are_not_blamed_for_being_alone() -> None:
    found = samples(rerun(net(), batch(only=6), loss=spread))

    assert [culprit.index for culprit in found.culprits] == [6]
    assert "act together" in found.caveat


def test_samples_that_break_only_together_are_told_so() -> None:
    one = nn.Linear(3, 3)
    again = rerun(one, batch(), loss=lambda m, b: pairs_at_zero(m(b["x"])))

    found = samples(again)

    assert found.culprits == ()
    assert "no sample breaks alone" in found.caveat


def pairs_at_zero(x: Tensor) -> Tensor:
    """Breaks where there are two samples or more, none of which does so alone."""
    alone = torch.ones(len(x)) * (len(x) > 1)
    return (
        (x.sum() - (x * alone[:, None]).sum()).reciprocal().nan_to_num(posinf=math.inf)
    )


def test_every_sample_bad_is_told_so() -> None:
    module = net()
    next(module.parameters()).data.fill_(math.nan)

    found = samples(rerun(module, batch()))

    assert found.culprits == ()
    assert "every sample breaks" in found.caveat


def test_batch_that_cannot_be_split_is_told_so() -> None:
    uneven = {"x": torch.ones(4, 3), "y": torch.ones(7, 1)}

    found = samples(rerun(net(), uneven))

    assert (found.count, found.runs) == (0, 0)
    assert "first dimensions of its tensors should agree, got 4 and 7" in found.caveat


def outlier(sample: int) -> dict[str, Any]:
    given = batch()
    given["y"][sample] = 1e3
    return given


def shares_by_hand(module: nn.Module, given: dict[str, Any]) -> list[float]:
    """Projections of each sample's part of the gradient, by autograd on one loss each."""
    errors = (module(given["x"].log()) - given["y"]).square().flatten() / 12
    weights = list(module.parameters())
    parts = [
        torch.cat(
            [g.flatten() for g in torch.autograd.grad(e, weights, retain_graph=True)]
        )
        for e in errors
    ]
    whole = torch.stack(parts).sum(dim=0)
    return [float(part @ whole / (whole @ whole)) for part in parts]


def test_spike_is_blamed_on_the_sample_that_carries_it() -> None:
    module, given = net(), outlier(7)

    found = samples(rerun(module, given), spike=True)

    [culprit] = found.culprits
    assert culprit.index == 7
    assert culprit.share == pytest.approx(shares_by_hand(module, given)[7], rel=1e-4)
    assert sum(share for _, share in culprit.layers) <= 1
    assert found.caveat == ""


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_shares_hold_for_sums_and_means(reduction: str) -> None:
    def loss(module: nn.Module, batch: dict[str, Any]) -> Tensor:
        predicted = module(batch["x"].log())
        return functional.mse_loss(predicted, batch["y"], reduction=reduction)

    found = samples(rerun(net(), outlier(4), loss=loss), spike=True)

    assert found.culprits[0].index == 4
    assert 0.5 < found.culprits[0].share < 1.1
    assert found.caveat == ""


def test_spike_in_a_sparse_gradient_is_blamed_on_its_sample() -> None:
    words = nn.Embedding(12, 1, sparse=True)
    given = {"words": torch.arange(12), "y": torch.ones(12, 1)}
    given["y"][5] = 1e3

    def loss(module: nn.Module, batch: dict[str, Any]) -> Tensor:
        return functional.mse_loss(module(batch["words"]), batch["y"])

    found = samples(rerun(words, given, loss=loss), spike=True)

    assert [culprit.index for culprit in found.culprits] == [5]
    assert found.culprits[0].share == pytest.approx(1, abs=1e-3)
    assert found.caveat == ""


def test_spike_of_a_window_is_blamed_across_its_batches() -> None:
    again = rerun(net(), batch(), outlier(3), parts=2)

    assert indices(again, spike=True) == [(1, 3)]


def test_spike_that_all_share_is_told_so() -> None:
    given = batch()
    given["y"] += 1e3

    found = samples(rerun(net(), given), spike=True)

    assert len(found.culprits) == 5
    assert "no few samples carry it: the largest 5 carry" in found.caveat


def test_shares_are_a_hint_under_batch_norm() -> None:
    found = samples(rerun(net(nn.BatchNorm1d(4)), outlier(2)), spike=True)

    assert "act together" in found.caveat


def test_module_is_left_as_it_was() -> None:
    module = net(nn.BatchNorm1d(4), nn.Dropout(0.5))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    generator = torch.get_rng_state()

    samples(rerun(module, batch(only=1)))

    after = module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(weight.grad is None for weight in module.parameters())
    assert torch.equal(torch.get_rng_state(), generator)
