"""Fused optimizers are told on the device to skip a step, and the host waits for nothing."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer
from typing_extensions import override

from gradguard import (
    AutoClip,
    ClipNorm,
    ClipNormWarmUp,
    GradGuard,
    NonFiniteGradientError,
    Spike,
    ZClip,
)
from gradguard.gradients.columns import ParameterColumns
from gradguard.gradients.sharding import Shards
from gradguard.guard.gate import Guard
from gradguard.guard.on_device import DeviceGate, is_told_on_device
from gradguard.guard.usual import SpikeWatch
from gradguard.tensorboard.reader import read_run
from tests.support.modules import Net
from tests.support.syncs import Syncs
from tests.support.trainers import fit, same_weights

# Every skip warns once; the tests that ask for the warning see it.
pytestmark = pytest.mark.filterwarnings("ignore:update skipped:UserWarning")

Make = Callable[[Any], Optimizer]

FUSED: dict[str, Make] = {
    "adam": lambda p: Adam(p, 0.01, fused=True),
    "amsgrad": lambda p: Adam(p, 0.01, fused=True, amsgrad=True),
    "adamw": lambda p: AdamW(p, 0.01, fused=True),
    "adagrad": lambda p: Adagrad(p, 0.01, fused=True),
    "sgd": lambda p: SGD(p, 0.01, fused=True),
}
ON_HOST: dict[str, Make] = {
    "adamw": lambda p: AdamW(p, 0.01),
    "foreach": lambda p: AdamW(p, 0.01, foreach=True),
    "momentum": lambda p: SGD(p, 0.01, momentum=0.9, fused=True),
    "inherited": lambda p: Inherited(p, 0.01, fused=True),
}


class Inherited(AdamW):
    @override
    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


class Factored(Net):
    """Multiplies the loss of batch i by the i-th factor."""

    def __init__(self, factors: Sequence[float], make: Make = FUSED["adamw"]) -> None:
        super().__init__(make)
        self.factors = factors

    @override
    def batches(self) -> list[Tensor]:
        return list(torch.randn(40, 2, 4, generator=torch.manual_seed(1)))

    @override
    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        x, factor = batch[:, :4], self.factors[batch_idx]
        return self.loss(x) * factor


class Bereft(Factored):
    """Notes the batches whose gradients are gone: the host knew what to skip."""

    @override
    def on_train_start(self) -> None:
        self.bereft: list[int] = []

    @override
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.first.weight.grad is None:
            self.bereft.append(batch_idx)


class Without(Factored):
    """Trains on the batches whose factor is 1 alone."""

    @override
    def batches(self) -> list[Tensor]:
        pairs = zip(super().batches(), self.factors, strict=True)
        return [batch for batch, factor in pairs if factor == 1]

    @override
    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.loss(batch)


def factors(**planted: float) -> list[float]:
    """Forty ones, but for what is planted, as b20=1e6."""
    return [planted.get(f"b{number}", 1.0) for number in range(40)]


def guard(**options: Any) -> GradGuard:
    usual = {"on_nonfinite": "skip", "on_spike": Spike(window=8)}
    return GradGuard(**{**usual, **options})


BAD = factors(b0=math.nan, b7=math.inf, b20=1e8, b30=1e8)


@pytest.mark.parametrize("clip", [None, ClipNorm(0.1), AutoClip(30), ZClip(warmup=3)])
@pytest.mark.parametrize("make", FUSED.values(), ids=FUSED)
def test_skipped_steps_have_never_been(tmp_path: Path, make: Make, clip: Any) -> None:
    skipping = fit(tmp_path, guard(clip=clip), model=Factored(BAD, make))
    without = fit(tmp_path / "without", guard(clip=clip), model=Without(BAD, make))

    run = read_run(tmp_path / "run")
    assert run.steps[run.refused].tolist() == [0, 7, 20, 30]
    assert same_weights(skipping, without)


@pytest.mark.parametrize("make", FUSED.values(), ids=FUSED)
def test_optimizer_is_left_as_it_was(tmp_path: Path, make: Make) -> None:
    model = fit(tmp_path, guard(), model=Factored(BAD, make))

    optimizer = model.trainer.optimizers[0]
    assert not hasattr(optimizer, "found_inf")
    assert not optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize("make", FUSED.values(), ids=FUSED)
def test_fused_optimizers_are_told(make: Make) -> None:
    assert is_told_on_device(make(Net().parameters()))


@pytest.mark.parametrize("make", ON_HOST.values(), ids=ON_HOST)
def test_others_are_not(make: Make) -> None:
    assert not is_told_on_device(make(Net().parameters()))


def gate_over(model: nn.Module, settings: Guard) -> tuple[DeviceGate, ParameterColumns]:
    held = list(model.parameters())
    names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
    columns = ParameterColumns(held, names, Shards(held, None))
    return DeviceGate(AdamW(held, fused=True), columns, settings), columns


def decided(gate: DeviceGate, columns: ParameterColumns, loss: Tensor) -> Tensor:
    gradients = columns.gradients()
    norms = columns.row(gradients.norms())
    return gate.decide(loss, gradients, norms, norms)


def test_deciding_never_waits_for_the_device() -> None:
    model = Net()
    gate, columns = gate_over(model, Guard("skip", Spike(window=8)))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    gradients = columns.gradients()
    norms = columns.row(gradients.norms())
    loss = torch.tensor(1.0)
    Syncs.count = 0

    with Syncs():  # type: ignore[no-untyped-call] # torch's
        for _ in range(20):
            gate.decide(loss, gradients, norms, norms)

    assert Syncs.count == 0


norms = st.sampled_from([0.5, 1.0, 2.0, 1e6, math.nan, math.inf, 0.0])
losses = st.sampled_from([0.5, 1.0, 1e7, -1.0, math.nan])


@given(st.lists(st.tuples(norms, losses), max_size=60), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_device_and_host_decide_alike(
    steps: list[tuple[float, float]], most: int
) -> None:
    setting = Spike(window=8, sigma=3)
    model = nn.Linear(1, 1, bias=False)
    gate, columns = gate_over(model, Guard("record", setting, most))
    watch = SpikeWatch(setting, most)
    for norm, loss in steps:
        model.weight.grad = torch.full((1, 1), norm)
        on_host = None
        if math.isfinite(norm):
            on_host = watch.look(norm, loss)
            if on_host and watch.has_shifted:
                watch.accept(norm, loss)
                on_host = None

        assert bool(decided(gate, columns, torch.tensor(loss))) == bool(on_host)

    told, (state,) = watch.state_dict(), gate.state_dict().values()
    assert told["in_a_row"] == state["in_a_row"]
    for name in setting.watch:
        np.testing.assert_allclose(told[name], state[name], rtol=1e-12, atol=1e-12)


def test_what_was_skipped_is_told_with_the_records(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="update skipped") as warned:
        fit(tmp_path, guard(), model=Factored(factors(b3=math.nan, b20=1e8)))

    said = [str(each.message) for each in warned if "skipped" in str(each.message)]
    assert said[0] == (
        "update skipped at step 3: gradients are not finite: first.weight, first.bias, "
        "second.weight and 1 more"
    )
    assert said[1].startswith(
        "update skipped at step 20: the total before clipping is "
    )


def test_too_many_in_a_row_end_the_training(tmp_path: Path) -> None:
    bad = [math.nan if number in range(10, 30) else 1.0 for number in range(40)]

    with pytest.raises(NonFiniteGradientError, match="max_consecutive_skips=3 steps"):
        fit(tmp_path, guard(max_consecutive_skips=3), model=Factored(bad))


def test_level_shift_is_told(tmp_path: Path) -> None:
    shifted = [1.0 if number < 20 else 1e5 for number in range(40)]

    with pytest.warns(UserWarning, match="3 steps in a row were far above"):
        fit(tmp_path, guard(max_consecutive_skips=3), model=Factored(shifted))

    run = read_run(tmp_path / "run")
    assert run.steps[run.refused].tolist() == [20, 21, 22]


def test_finite_elements_whose_squares_overflow_are_no_alarm() -> None:
    model = Net()
    gate, columns = gate_over(model, Guard("skip"))
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e30)
    gradients = columns.gradients()
    # As accelerators have it, which measure in float32.
    overflowed = torch.full((len(gradients.tensors),), math.inf)

    assert not gate.decide(1.0, gradients, overflowed, overflowed)


@pytest.mark.parametrize(
    "options",
    [
        {"dump_dir": "bad-steps"},
        {"on_nonfinite": "raise"},
        {"clip": ClipNormWarmUp(1.0)},
    ],
    ids=str,
)
def test_what_has_to_be_known_at_once_is_decided_on_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = Bereft(factors(b20=1e8))

    fit(tmp_path, guard(**options), model=model)

    assert model.bereft == [20]


def test_scaler_is_not_told_of_a_spike(tmp_path: Path) -> None:
    scaler = GradScaler("cpu", init_scale=2.0)
    precision = MixedPrecision("16-mixed", "cpu", scaler)

    fit(
        tmp_path,
        guard(clip=ClipNorm(1.0)),
        model=Factored(factors(b20=5e3)),
        plugins=[precision],
    )

    run = read_run(tmp_path / "run")
    assert run.steps[run.refused].tolist() == [20]
    assert scaler.get_scale() == 2.0  # a step it had skipped would have halved it
