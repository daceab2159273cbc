"""Training in which gradguard does the Trainer's clip, and all in which it must not."""

import copy
import functools
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import BackboneFinetuning
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins import Precision
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, Optimizer
from typing_extensions import override

from gradguard import GradGuard
from gradguard.records.records import Records
from gradguard.tensorboard.reader import read_run
from tests.support.modules import (
    Backbone,
    ClipsBeforeStep,
    ClipsBeforeStepCallback,
    HookClipsByTorch,
    Net,
    lbfgs,
    nesterov,
)
from tests.support.oracle import norm

MAX_NORM = 0.5


class Witness(SGD):
    """Remembers the total norms its updates are made of, in float64."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, 0.05)
        self.seen: list[float] = []

    @override
    def step(self, closure: Any = None) -> Any:
        loss = closure()
        held = self.param_groups[0]["params"]
        self.seen.append(np.linalg.norm([norm(p.grad) for p in held]).item())
        super().step()
        return loss


def trained(
    path: Path, model: LightningModule, *callbacks: Callback, **options: Any
) -> Records:
    """Train a twin without gradguard, too; return the records of equal trainings."""
    twin = copy.deepcopy(model)
    for module, more in ((twin, []), (model, [GradGuard()])):
        seed_everything(1, verbose=False)
        trainer = Trainer(
            accelerator="cpu",
            log_every_n_steps=4,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            logger=TensorBoardLogger(path, name=None, version="run") if more else False,
            callbacks=[*more, *copy.deepcopy(callbacks)],
            **{
                "max_epochs": 1,
                "gradient_clip_val": MAX_NORM,
                **copy.deepcopy(options),
            },
        )
        trainer.fit(module)
    assert all(map(torch.equal, model.parameters(), twin.parameters()))
    records = read_run(path / "run")
    (optimizer,) = trainer.optimizers
    if isinstance(optimizer, Witness):
        np.testing.assert_allclose(records.total_after, optimizer.seen, rtol=1e-5)
    return records


@pytest.fixture
def clips_by_torch(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One item for each call of torch's clip."""
    calls: list[int] = []

    total = torch.nn.utils.clip_grad._get_total_norm

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return total(*args, **kwargs)

    # What it calls, since replacing itself would be seen.
    monkeypatch.setattr(torch.nn.utils.clip_grad, "_get_total_norm", counted)
    return calls


@pytest.mark.parametrize(
    "optimizer", [SGD, nesterov, lbfgs], ids=["sgd", "nesterov", "lbfgs"]
)
def test_observed_clip_by_norm_is_one_pass(
    tmp_path: Path, clips_by_torch: list[int], optimizer: Any
) -> None:
    records = trained(tmp_path, Net(partial(optimizer, lr=0.05)))

    updates = len(records.steps)
    assert len(clips_by_torch) == updates  # those of the twin
    np.testing.assert_allclose(
        records.total_after, np.minimum(records.total_before, MAX_NORM), rtol=1e-4
    )
    assert (records.total_after < records.total_before).any()


class Exploding(Net):
    """Has one batch whose gradients are finite and too large for float32 squares."""

    @override
    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        return self.loss(batch) * (1e22 if batch_idx == 3 else 1)


def test_overflow_is_left_to_torch_and_measured(
    tmp_path: Path, clips_by_torch: list[int]
) -> None:
    records = trained(tmp_path, Exploding(Witness))

    assert 1e20 < records.total_before[3] < np.inf
    assert records.total_after[3] == 0  # torch divides by a total of Inf
    assert len(clips_by_torch) == len(records.steps) + 1


@functools.wraps(clip_grad_norm_)
def halved(parameters: Any, max_norm: float, **_: Any) -> Tensor:
    return clip_grad_norm_(parameters, max_norm / 2)


class Halving(Callback):
    """Replaces what clips, at some moment of the fit."""

    def __init__(self, moment: str, replace: Callable[[Trainer], None]) -> None:
        vars(self)[moment] = lambda trainer, *_, **__: replace(trainer)


def replace_torchs(_: Trainer) -> None:
    vars(torch.nn.utils)["clip_grad_norm_"] = halved


def replace_by_an_object(_: Trainer) -> None:
    vars(torch.nn.utils)["clip_grad_norm_"] = partial(halved)


def replace_plugins(trainer: Trainer) -> None:
    plugin = trainer.precision_plugin
    clip = type(plugin).clip_grad_by_norm
    vars(plugin)["clip_grad_by_norm"] = lambda optimizer, clip_val: clip(
        plugin, optimizer, clip_val / 2
    )


@pytest.mark.parametrize("moment", ["setup", "on_train_start", "on_train_epoch_start"])
@pytest.mark.parametrize(
    "replace", [replace_torchs, replace_by_an_object, replace_plugins]
)
def test_whoever_replaces_the_clip_is_observed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    replace: Callable[[Trainer], None],
) -> None:
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clip_grad_norm_)

    records = trained(tmp_path, Net(Witness), Halving(moment, replace))

    assert records.total_after.max() < MAX_NORM / 2 * 1.0001


def test_plugin_class_given_another_method_is_observed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = Precision.clip_grad_by_norm
    monkeypatch.setattr(
        Precision,
        "clip_grad_by_norm",
        lambda plugin, optimizer, clip_val: clip(plugin, optimizer, clip_val / 2),
    )

    records = trained(tmp_path, Net(Witness))

    assert records.total_after.max() < MAX_NORM / 2 * 1.0001


class ClipsByHand(Net):
    """Clips right after the backward pass, in automatic optimization."""

    @override
    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        super().backward(loss, *args, **kwargs)
        self.clip_gradients(
            self.optimizers(),  # type: ignore[arg-type] # one
            gradient_clip_val=0.1,
            gradient_clip_algorithm="norm",
        )


def test_clip_call_ahead_of_the_hook_is_torchs(tmp_path: Path) -> None:
    records = trained(tmp_path, ClipsByHand(Witness), gradient_clip_val=None)

    assert records.total_after.max() < 0.1 * 1.0001


class ClipsFromTheStart(Net):
    """Gives itself a clip hook once training has begun."""

    @override
    def on_train_start(self) -> None:
        vars(self)["configure_gradient_clipping"] = lambda *_, **__: clip_grad_norm_(
            self.parameters(), 0.1
        )


def test_clip_hook_set_up_late_is_observed(tmp_path: Path) -> None:
    records = trained(tmp_path, ClipsFromTheStart(Witness))

    assert (records.total_before > records.total_after).any()


class Copying(Callback):
    """Trains another model by copies of the Trainer's plugin, in the middle of a fit."""

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 2:
            plugin = trainer.precision_plugin
            for one in (
                plugin,
                copy.deepcopy(plugin),
                pickle.loads(pickle.dumps(plugin)),
            ):
                Trainer(
                    accelerator="cpu",
                    max_steps=2,
                    gradient_clip_val=0.1,
                    plugins=[one],
                    logger=False,
                    enable_progress_bar=False,
                    enable_model_summary=False,
                    enable_checkpointing=False,
                ).fit(Net())


def test_plugin_is_used_and_copied_in_mid_fit(tmp_path: Path) -> None:
    trained(tmp_path, Net(Witness), Copying())


class Wrapped(Callback):
    """Wraps the plugin's clip for the time of a fit, and puts back what it found."""

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.found = found = trainer.precision_plugin.clip_gradients
        vars(trainer.precision_plugin)["clip_gradients"] = partial(found)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        vars(trainer.precision_plugin)["clip_gradients"] = self.found


def test_clip_call_that_others_have_wrapped_outlives_the_fit(tmp_path: Path) -> None:
    trainer = Trainer(
        accelerator="cpu",
        max_steps=2,
        gradient_clip_val=MAX_NORM,
        callbacks=[GradGuard(), Wrapped()],
        log_every_n_steps=1,
        logger=TensorBoardLogger(tmp_path),
        enable_checkpointing=False,
    )
    trainer.fit(Net())
    trainer.fit_loop.max_epochs, trainer.fit_loop.epoch_loop.max_steps = 5, 4

    trainer.fit(Net())

    assert trainer.global_step == 4


class Annealed(Callback):
    """Moves the Trainer's own threshold while it trains."""

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        trainer.gradient_clip_val = 0.5 / (1 + batch_idx)


def test_threshold_that_moves_is_followed(tmp_path: Path) -> None:
    records = trained(tmp_path, Net(Witness), Annealed())

    limit = 0.5 / (1 + np.arange(len(records.steps)))
    np.testing.assert_allclose(
        records.total_after, np.minimum(records.total_before, limit), rtol=1e-4
    )


def test_parameters_an_optimizer_is_given_later_are_clipped_too(tmp_path: Path) -> None:
    finetuning = BackboneFinetuning(1, lambda _: 1.0, backbone_initial_lr=0.01)

    records = trained(tmp_path, Backbone(), finetuning, max_epochs=2)

    assert (records.total_after[-7:] < MAX_NORM * 1.0001).all()
    assert (records.total_before[-7:] > MAX_NORM).any()


class Swapping(Net):
    """Exchanges a parameter of its optimizer for another, halfway."""

    @override
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if batch_idx == 3:
            group: Any = self.trainer.optimizers[0].param_groups[0]
            self.second.bias = torch.nn.Parameter(torch.ones(1))
            group["params"][-1] = self.second.bias


def test_parameters_an_optimizer_exchanges_are_clipped_too(tmp_path: Path) -> None:
    trained(tmp_path, Swapping(Witness))


class Noisy(Net):
    """Its optimizer puts something on top of every gradient, after the clip."""

    @override
    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        optimizer.register_step_pre_hook(self.add)
        return optimizer

    def add(self, _: Optimizer, args: Any, kwargs: Any) -> Any:
        closure = kwargs["closure"]

        def noisy() -> Any:
            loss = closure()
            for parameter in self.parameters():
                assert parameter.grad is not None
                self.change(parameter.grad)
            return loss

        return args, {**kwargs, "closure": noisy}

    def change(self, gradient: Tensor) -> None:
        gradient += 1


def test_gradients_touched_after_the_clip_are_measured(tmp_path: Path) -> None:
    records = trained(tmp_path, Noisy())

    # Ones on 49 elements; what was clipped to 0.5 turns them by at most that.
    assert (abs(records.total_after - np.sqrt(49)) <= MAX_NORM * 1.0001).all()


class NoisyUnseen(Noisy):
    """Changes the numbers past the count of changes that tensors keep."""

    @override
    def change(self, gradient: Tensor) -> None:
        gradient.data.add_(1)


def test_gradients_of_an_optimizer_others_have_hooked_are_measured(
    tmp_path: Path,
) -> None:
    records = trained(tmp_path, NoisyUnseen())

    assert (abs(records.total_after - np.sqrt(49)) <= MAX_NORM * 1.0001).all()


class Twice(Net):
    """Gives one parameter to its optimizer twice, which torch clips twice."""

    @override
    def configure_optimizers(self) -> Any:
        return SGD([*self.parameters(), self.first.bias], lr=0.05)


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with dupl")
def test_parameter_held_twice_is_left_to_torch(
    tmp_path: Path, clips_by_torch: list[int]
) -> None:
    records = trained(tmp_path, Twice())

    assert len(clips_by_torch) == 2 * len(records.steps)


class Replaced(Callback):
    """Starts anew with another optimizer, halfway."""

    @override
    def on_train_epoch_start(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> None:
        if trainer.current_epoch == 1:
            trainer.strategy.setup_optimizers(trainer)


def test_optimizer_made_anew_in_mid_fit_is_watched(tmp_path: Path) -> None:
    records = trained(tmp_path, Net(), Replaced(), max_epochs=2)

    assert records.steps.tolist() == list(range(2 * len(Net().batches())))
    assert (records.total_after <= MAX_NORM * 1.0001).all()


class Untrained(Net):
    """Has no optimizer, and nothing to train."""

    @override
    def configure_optimizers(self) -> None:
        return None


@pytest.mark.filterwarnings("ignore:`LightningModule.configure_optimizers` returned")
@pytest.mark.filterwarnings("ignore:no optimizer holds")
def test_module_without_an_optimizer_trains_and_is_not_recorded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no records of gradguard"):
        trained(tmp_path, Untrained(), gradient_clip_val=None)


class Tiny(Net):
    """Has gradients whose squares underflow even in float64."""

    @override
    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        return self.loss(batch) * 1e-200


def test_numpy_may_have_been_told_to_raise(tmp_path: Path) -> None:
    with np.errstate(all="raise"):
        records = trained(tmp_path, Tiny().double(), precision="64-true")

    assert len(records.steps) == len(Net().batches())


class Plugin(Precision):
    """Clips its own way."""

    @override
    def clip_grad_by_norm(self, optimizer: Optimizer, clip_val: float) -> None:
        super().clip_grad_by_norm(optimizer, clip_val / 2)


class OwnStrategy(SingleDeviceStrategy):
    """Has a say in every update."""

    @override
    def optimizer_step(self, *args: Any, **kwargs: Any) -> Any:
        return super().optimizer_step(*args, **kwargs)


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (ClipsBeforeStep, {"gradient_clip_val": None}),
        (HookClipsByTorch, {"gradient_clip_val": None}),
        (Net, {"plugins": [Plugin()]}),
        (Net, {"strategy": OwnStrategy("cpu")}),
        (Net, {"precision": "bf16-mixed"}),
        (Net, {"gradient_clip_algorithm": "value"}),
    ],
    ids=["module hook", "clip hook", "plugin", "strategy", "precision", "value"],
)
def test_whoever_else_clips_is_observed(
    tmp_path: Path, model: type[Net], options: dict[str, Any]
) -> None:
    trained(tmp_path, model(Witness), **options)


def test_callback_behind_that_clips_is_observed(tmp_path: Path) -> None:
    records = trained(
        tmp_path, Net(Witness), ClipsBeforeStepCallback(), gradient_clip_val=None
    )

    assert (records.total_after < records.total_before).any()
