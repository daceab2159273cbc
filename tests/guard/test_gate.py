"""Faults in real Trainers: what skip, raise and record make of them."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from typing_extensions import override

from gradguard import AutoClip, ClipNorm, GradGuard, NonFiniteGradientError, ZClip
from gradguard.tensorboard.reader import read_optimizers, read_run
from tests.support.event_files import events
from tests.support.modules import Net
from tests.support.trainers import fit, same_weights

Fault = tuple[int, str, float]  # batch, parameter, what one element of it becomes

BAD = [math.nan, math.inf, -math.inf]
HUGE, DENORMAL = 1e30, 1e-40
PARAMETERS = ["first.weight", "first.bias", "second.weight", "second.bias"]
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.01, 0.9, nesterov=True, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01),
    "adamw_foreach": lambda p: torch.optim.AdamW(p, 0.01, foreach=True),
    "adamw_fused": lambda p: torch.optim.AdamW(p, 0.01, fused=True),
}
# Every skip warns once; the tests that ask for the warning see it.
pytestmark = pytest.mark.filterwarnings("ignore:update skipped:UserWarning")


class Poisoned(Net):
    """Two layers that know which batches poison which gradient; a batch is a number."""

    def __init__(
        self,
        faults: list[Fault],
        optimizer: str = "sgd",
        backward: str = "automatic",  # or by manual_backward, or raw, by torch alone
    ) -> None:
        super().__init__(OPTIMIZERS[optimizer])
        self.automatic_optimization = backward == "automatic"
        self.faults = {batch: (name, value) for batch, name, value in faults}
        self.raw = backward == "raw"
        self.numbers = list(range(20))
        self.number = -1
        for name, parameter in self.named_parameters():
            # Behind autograd and all tensor hooks, ahead of which *before* is taken.
            parameter.register_post_accumulate_grad_hook(self._poison(name))  # type: ignore[no-untyped-call] # torch's

    def _poison(self, name: str) -> Callable[[Tensor], None]:
        def poison(parameter: Tensor) -> None:
            target, value = self.faults.get(self.number, ("", 0.0))
            if target == name:
                assert parameter.grad is not None  # just accumulated
                parameter.grad.view(-1)[-1] = value

        return poison

    @override
    def batches(self) -> Any:
        return self.numbers

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.number = batch
        loss = self.loss(batch)
        if self.automatic_optimization:
            return loss
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        if self.raw:
            loss.backward()  # type: ignore[no-untyped-call] # torch's
        else:
            self.manual_backward(loss)
        optimizer.step()
        return None

    @override
    def loss(self, x: Any) -> Tensor:
        inputs = torch.randn(2, 4, generator=torch.Generator().manual_seed(x))
        return self.output(inputs).square().mean()


def skipping(**options: Any) -> GradGuard:
    return GradGuard(on_nonfinite="skip", max_consecutive_skips=20, **options)


faults = st.lists(
    st.tuples(st.integers(0, 19), st.sampled_from(PARAMETERS), st.sampled_from(BAD)),
    min_size=1,
    max_size=5,
    unique_by=lambda fault: fault[0],
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "window"),
    [
        ({}, 1),
        ({"gradient_clip_val": 0.1}, 1),
        ({"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}, 1),
        ({"accumulate_grad_batches": 2}, 2),
        ({"precision": "64-true"}, 1),
        ({"precision": "bf16-true"}, 1),
        ({"precision": "bf16-mixed"}, 1),
        ({"clip": ClipNorm(0.1)}, 1),
        ({"clip": AutoClip(30)}, 1),
        ({"clip": ZClip(0.5, warmup=3)}, 1),
        ({"backward": "manual"}, 1),
        ({"backward": "raw"}, 1),
    ],
    ids=str,
)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@given(faults=faults)
@settings(max_examples=3, deadline=None, derandomize=True)
def test_weights_are_those_of_a_run_without_the_bad_batches(
    tmp_path_factory: pytest.TempPathFactory,
    optimizer: str,
    options: dict[str, Any],
    window: int,
    faults: list[Fault],
) -> None:
    path = tmp_path_factory.mktemp("runs")
    trainer = {key: options[key] for key in options.keys() - {"clip", "backward"}}
    backward = options.get("backward", "automatic")
    bad = {batch // window for batch, _, _ in faults}
    skipped = Poisoned(faults, optimizer, backward)
    without = Poisoned([], optimizer, backward)
    without.numbers = [n for n in without.numbers if n // window not in bad]

    for name, model in (("skipped", skipped), ("without", without)):
        guard = skipping(clip=options.get("clip"))
        fit(path / name, guard, model=model, **trainer)

    assert same_weights(skipped, without)
    run = read_run(path / "skipped" / "run")
    assert run.refused.sum() == run.nonfinite.sum() == len(bad)
    assert set(run.steps[run.refused]) == bad


def test_lbfgs_does_not_move_on_a_bad_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lbfgs = {"lbfgs": lambda p: torch.optim.LBFGS(p, 0.1, max_iter=3)}
    monkeypatch.setattr(f"{__name__}.OPTIMIZERS", lbfgs)
    never = Poisoned([], "lbfgs")
    never.numbers.remove(7)
    bad = Poisoned([(7, "first.bias", math.nan)], "lbfgs")

    skipped = fit(tmp_path / "skipped", skipping(), model=bad)
    without = fit(tmp_path / "without", skipping(), model=never)

    assert same_weights(skipped, without)
    assert read_run(tmp_path / "skipped" / "run").refused.sum() == 1


class Two(Poisoned):
    """An optimizer for each layer, each with a backward pass of its own."""

    def configure_optimizers(self) -> Any:
        return [OPTIMIZERS["adamw"](layer.parameters()) for layer in self.children()]

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.number = batch
        optimizers: Any = self.optimizers()
        for optimizer in optimizers:
            self.toggle_optimizer(optimizer)
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()
            self.untoggle_optimizer(optimizer)


def test_of_several_optimizers_only_the_one_with_the_fault_is_stopped(
    tmp_path: Path,
) -> None:
    model = Two([(7, "second.bias", -math.inf)])
    model.automatic_optimization = False

    fit(tmp_path, skipping(), model=model)

    first, second = read_optimizers(tmp_path / "run").values()
    assert not first.refused.any()
    assert np.flatnonzero(second.refused).tolist() == [7]
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("value", [HUGE, DENORMAL, -HUGE])
@pytest.mark.parametrize("clip", [None, ClipNorm(0.1), ZClip(warmup=3)], ids=repr)
def test_finite_gradients_of_any_size_are_no_alarm(
    tmp_path: Path, value: float, clip: Any
) -> None:
    faults = [(10, "first.bias", value)]

    guarded = fit(tmp_path / "a", skipping(clip=clip), model=Poisoned(faults))
    plain = fit(tmp_path / "b", GradGuard(clip=clip), model=Poisoned(faults))

    run = read_run(tmp_path / "a" / "run")
    assert not run.refused.any()
    assert same_weights(guarded, plain)
    if clip is not None:
        assert all(parameter.isfinite().all() for parameter in guarded.parameters())


class LossIsNaN(Poisoned):
    @override
    def loss(self, x: Any) -> Tensor:
        return super().loss(x) * (torch.nan if x == 7 else 1)


def test_one_nan_loss_skips_exactly_one_step(tmp_path: Path) -> None:
    model = LossIsNaN([])
    model.numbers = list(range(200))

    fit(tmp_path, skipping(clip=ZClip()), model=model)

    run = read_run(tmp_path / "run")
    assert run.steps[run.refused].tolist() == [7]
    assert run.nonfinite.sum() == 1
    points = events(tmp_path / "run").Scalars("gradguard/skipped_steps")
    assert sum(point.value for point in points) == 1


class Compare(GradGuard):
    """Holds the state after batch 9 to that before, bit by bit."""

    compared = False

    def on_train_batch_start(self, *args: Any) -> None:
        super().on_train_batch_start(*args)
        self.before = copy.deepcopy(self.state(*args[:2]))

    def on_train_batch_end(self, *args: Any) -> None:
        super().on_train_batch_end(*args)
        if args[-1] == 9:
            torch.testing.assert_close(
                self.state(*args[:2]), self.before, rtol=0, atol=0
            )
            self.compared = True

    def state(self, trainer: Any, module: Any) -> list[Any]:
        return [module.state_dict(), trainer.optimizers[0].state_dict()["state"]]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_skip_leaves_parameters_and_optimizer_state_bit_identical(
    tmp_path: Path, optimizer: str
) -> None:
    guard = Compare(on_nonfinite="skip")
    model = Poisoned([(9, "second.weight", math.nan)], optimizer)

    fit(tmp_path, guard, model=model)

    assert guard.compared


def test_record_lets_the_bad_step_happen(tmp_path: Path) -> None:
    model = Poisoned([(9, "second.weight", math.nan)])

    fit(tmp_path, GradGuard(), model=model)

    assert model.second.weight.isnan().any()
    assert not read_run(tmp_path / "run").refused.any()


def message(tmp_path: Path, model: Poisoned, **options: Any) -> str:
    with pytest.raises(NonFiniteGradientError) as raised:
        fit(tmp_path, GradGuard(on_nonfinite="raise", **options), model=model)
    return str(raised.value)


def test_raise_names_the_culprits_in_backward_order(tmp_path: Path) -> None:
    model = Poisoned([(13, "first.bias", math.inf)])
    model.second.weight.register_hook(  # type: ignore[no-untyped-call] # torch's
        lambda g: (
            g.index_fill(1, torch.tensor([0, 1]), math.nan) if model.number == 13 else g
        )
    )

    said = message(tmp_path, model)

    assert said.startswith(
        "step 13, batch 13: gradients are not finite: "
        "second.weight (NaN) and first.bias (+Inf), first in backward order; "
        "finite: second.bias and first.weight; loss 0."
    )


def test_raise_says_what_to_try(tmp_path: Path) -> None:
    said = message(tmp_path, Poisoned([(0, "first.bias", math.inf)]))

    assert "Trainer(detect_anomaly=True)" in said


def test_raise_tells_a_loss_that_is_not_finite(tmp_path: Path) -> None:
    said = message(tmp_path, LossIsNaN([]))

    assert "second.bias (NaN), second.weight (NaN), first.bias (NaN) and 1 more" in said
    assert "finite: none; loss nan: the forward pass broke" in said


def test_raise_leaves_every_record(tmp_path: Path) -> None:
    message(tmp_path, Poisoned([(9, "first.weight", -math.inf)]))

    assert read_run(tmp_path / "run").steps.tolist() == list(range(10))


def test_raise_leaves_the_weights_as_they_were(tmp_path: Path) -> None:
    model = Poisoned([(9, "first.weight", -math.inf)])
    never = Poisoned([])
    never.numbers = list(range(9))

    said = message(tmp_path / "a", model, clip=ClipNorm(0.1))
    fit(tmp_path / "b", GradGuard(clip=ClipNorm(0.1)), model=never)

    assert "first.weight (-Inf)" in said
    assert same_weights(model, never)


def test_too_many_skips_in_a_row_raise(tmp_path: Path) -> None:
    bad = [(batch, "first.weight", math.nan) for batch in (3, 4, 6, 7, 8, 9)]
    guard = GradGuard(on_nonfinite="skip", max_consecutive_skips=3)

    with pytest.raises(
        NonFiniteGradientError, match=r"step 9.*max_consecutive_skips=3"
    ):
        fit(tmp_path, guard, model=Poisoned(bad))


def test_skip_warns_once_per_streak(tmp_path: Path) -> None:
    bad = [(batch, "first.weight", math.nan) for batch in (3, 4, 6)]

    with pytest.warns(UserWarning, match="update skipped at step") as caught:
        fit(tmp_path, skipping(), model=Poisoned(bad))

    said = [str(w.message) for w in caught if "update skipped" in str(w.message)]
    assert [text.split(",")[0] for text in said] == [
        "update skipped at step 3",
        "update skipped at step 6",
    ]


def test_scaler_searching_its_scale_is_no_alarm(tmp_path: Path) -> None:
    scaler = GradScaler("cpu", init_scale=8.0)
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    # One step's Inf is the scaler's affair, which halves the scale and skips it.
    model = Poisoned([(0, "first.weight", math.inf), (1, "first.weight", math.nan)])
    guard = GradGuard(on_nonfinite="raise", clip=ZClip(warmup=3))

    fit(tmp_path, guard, model=model, plugins=[plugin])

    run = read_run(tmp_path / "run")
    assert run.skipped.sum() == 2
    assert not run.refused.any()
    points = events(tmp_path / "run").Scalars("gradguard/amp_skipped")
    assert sum(point.value for point in points) == 2
    scales = events(tmp_path / "run").Scalars("gradguard/loss_scale")
    assert scales[-1].value == 8.0 / 2 / 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"on_nonfinite": "stop"},
            'on_nonfinite must be "record", "skip" or "raise", got \'stop\'',
        ),
        (
            {"on_nonfinite": "skip", "max_consecutive_skips": 0},
            "max_consecutive_skips must be at least 1, got 0",
        ),
        ({"dump_dir": "d"}, 'dump_dir needs on_nonfinite or on_spike to be "skip"'),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        GradGuard(**options)
