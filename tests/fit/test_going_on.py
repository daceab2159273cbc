"""Fits in a row and in parts: steps are never told twice, and nothing learned is lost."""

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Optimizer

from gradguard import AutoClip, ByName, ClipNorm, GradGuard
from gradguard.tensorboard.reader import read_run
from tests.support.modules import Net
from tests.support.oracle import norm
from tests.support.trainers import same_weights, trainer


class Raw(Net):
    """Steps torch's own optimizer, so that Lightning counts no step; sees its norms."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.totals: list[float] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        self.totals.append(np.linalg.norm([norm(p.grad) for p in self.parameters()]))  # type: ignore[arg-type]
        optimizer.step()


def fitted_twice(path: Path, model: Net, guard: GradGuard) -> Any:
    lightning = trainer(path, guard)
    lightning.fit(model)
    lightning.fit_loop.max_epochs = 2
    lightning.fit(model)
    return lightning


def test_second_fit_goes_on_with_the_next_step(tmp_path: Path) -> None:
    fitted_twice(tmp_path, model := Raw(), GradGuard())

    records = read_run(tmp_path / "run")
    assert records.steps.tolist() == list(range(len(model.totals)))
    np.testing.assert_allclose(records.total_before, model.totals, rtol=1e-5)


def test_second_fit_goes_on_with_what_was_learned(tmp_path: Path) -> None:
    guard = GradGuard(AutoClip(50))

    fitted_twice(tmp_path, model := Raw(), guard)

    assert guard._learned[0]["0.AutoClip"]["seen"] == len(model.totals)


def test_another_trainer_begins_anew(tmp_path: Path) -> None:
    guard = GradGuard(AutoClip(50))
    trainer(tmp_path / "one", guard).fit(Net())

    trainer(tmp_path / "two", guard).fit(Net())

    steps = read_run(tmp_path / "two" / "run").steps
    assert steps[0] == 0
    assert guard._learned[0]["0.AutoClip"]["seen"] == len(steps)


def lbfgs(parameters: Any) -> Optimizer:
    return LBFGS(parameters, lr=0.05, max_iter=3)


def test_evaluations_of_a_resumed_lbfgs_have_numbers_of_their_own(
    tmp_path: Path,
) -> None:
    first = trainer(tmp_path, GradGuard())
    first.fit(Net(lbfgs))
    first.save_checkpoint(tmp_path / "half.ckpt")
    seen = len(read_run(tmp_path / "run").steps)

    second = trainer(tmp_path, GradGuard(), max_epochs=2)
    second.fit(Net(lbfgs), ckpt_path=str(tmp_path / "half.ckpt"))

    steps = read_run(tmp_path / "run").steps
    assert seen > first.global_step
    assert steps.tolist() == list(range(len(steps)))
    assert len(steps) > seen


class Phases(Net):
    """Is given a new optimizer of the same parameters in its second epoch."""

    wrapped = False

    def on_train_epoch_start(self) -> None:
        if self.trainer.current_epoch == 1:
            new: Any = SGD(self.parameters(), 0.02)
            old = self.trainer.optimizers[0]
            self.trainer.optimizers = [Around(old) if self.wrapped else new]


class Around(Optimizer):
    """A wrapper that never called `Optimizer.__init__`, as Lookahead's do."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.param_groups = inner.param_groups
        self.defaults: dict[str, Any] = {}
        self.state = inner.state

    def step(self, closure: Any = None) -> Any:
        return self.inner.step(closure)


@pytest.mark.parametrize("wrapped", [False, True], ids=["new", "wrapped"])
def test_optimizer_in_the_place_of_another_goes_on_where_that_was(
    tmp_path: Path, wrapped: bool
) -> None:
    guard, model = GradGuard(AutoClip(50)), Phases()
    model.wrapped = wrapped

    trainer(tmp_path, guard, max_epochs=2).fit(model)

    steps = 2 * len(model.batches())
    assert read_run(tmp_path / "run").steps.tolist() == list(range(steps))
    assert [state["0.AutoClip"]["seen"] for state in guard._learned] == [steps]


class Resumes(Callback):
    """Gives a resumed run the optimizer that its checkpoint was written with."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        trainer.optimizers[0].param_groups[0]["lr"] = 0.02


def test_resumed_run_with_an_optimizer_made_anew_is_as_if_uninterrupted(
    tmp_path: Path,
) -> None:
    policy = AutoClip(50)
    trainer(tmp_path / "a", GradGuard(policy), max_epochs=3).fit(whole := Phases())
    first = trainer(tmp_path / "b", GradGuard(policy), max_epochs=2)
    first.fit(Phases())
    first.save_checkpoint(tmp_path / "two.ckpt")

    second = trainer(tmp_path / "c", GradGuard(policy), Resumes(), max_epochs=3)
    second.fit(resumed := Phases(), ckpt_path=str(tmp_path / "two.ckpt"))

    assert same_weights(whole, resumed)


class Growing(Net):
    """A layer is added in its second epoch, and given to the optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(4, 4)])

    def output(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return super().output(x)

    def on_train_epoch_start(self) -> None:
        if self.trainer.current_epoch == 1:
            self.blocks.append(nn.Linear(4, 4))
            added = list(self.blocks[1].parameters())
            self.trainer.optimizers[0].add_param_group({"params": added})


def test_layer_added_in_mid_fit_is_recorded_by_its_name(tmp_path: Path) -> None:
    trainer(tmp_path, GradGuard(), max_epochs=2).fit(model := Growing())

    names = {name for name, _ in model.named_parameters()}
    assert set(read_run(tmp_path / "run").names) == names


def test_layer_added_in_mid_fit_is_clipped_by_its_name(tmp_path: Path) -> None:
    clip = ByName({"blocks.*": ClipNorm(1e-3)})

    trainer(tmp_path, GradGuard(clip), max_epochs=2).fit(Growing())

    records = read_run(tmp_path / "run")
    blocks = [name.startswith("blocks") for name in records.names]
    total = float(np.linalg.norm(records.after[-1, blocks]))
    assert sum(blocks) == 4
    assert total == pytest.approx(1e-3, rel=1e-4)


def test_optimizer_that_was_replaced_is_not_kept_alive(tmp_path: Path) -> None:
    class Watching(Phases):
        replaced: Any = None

        def on_train_epoch_start(self) -> None:
            if self.trainer.current_epoch == 1:
                self.replaced = weakref.ref(self.trainer.optimizers[0])
            super().on_train_epoch_start()

        def on_train_epoch_end(self) -> None:
            if self.trainer.current_epoch == 1:
                gc.collect()
                alive.append(self.replaced() is not None)

    alive: list[bool] = []

    trainer(tmp_path, GradGuard(ClipNorm(1.0)), max_epochs=2).fit(Watching())

    assert alive == [False]


class Remaking(Raw):
    """Makes an optimizer that the Trainer does not know, anew for every batch."""

    def configure_optimizers(self) -> Any:
        return None

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        self.zero_grad()
        self.manual_backward(self.loss(batch))
        SGD(self.parameters(), 0.05).step()


@pytest.mark.filterwarnings("ignore:.*configure_optimizers. returned .None.")
@pytest.mark.filterwarnings("ignore:no optimizer holds")
def test_unknown_optimizers_of_the_same_parameters_are_one(tmp_path: Path) -> None:
    trainer(tmp_path, GradGuard(AutoClip(50)), max_epochs=2).fit(model := Remaking())

    steps = read_run(tmp_path / "run").steps
    assert steps.tolist() == list(range(2 * len(model.batches())))
