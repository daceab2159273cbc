"""What a tuner tries: clipped as the fit will be, and neither recorded nor learned from."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.tuner.tuning import Tuner
from torch.utils.data import DataLoader

from gradguard import AutoClip, ClipNorm, GradGuard
from gradguard.tensorboard.reader import read_run
from tests.support.modules import Net
from tests.support.trainers import same_weights, trainer

MAX_NORM = 0.05

pytestmark = [
    # Of Lightning's finders, which copy trainers and count batches in their own way.
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),
    pytest.mark.filterwarnings("ignore:The `srun` command is available"),
]


class Witness(torch.optim.SGD):
    """Remembers the total norm of each of its updates."""

    seen: list[float]

    def step(self, closure: Any = None) -> Any:
        loss = closure()
        held = [p for group in self.param_groups for p in group["params"]]
        norms = [float(p.grad.double().norm()) for p in held if p.grad is not None]
        Witness.seen.append(float(np.linalg.norm(norms)))
        super().step()
        return loss


class Tuned(Net):
    """As many rows as asked for, in batches of a size that can be tuned."""

    def __init__(self, rows: int = 80) -> None:
        super().__init__(partial(Witness, lr=0.05))
        self.rows = rows
        self.lr = 0.05
        self.batch_size = 2

    def configure_optimizers(self) -> Any:
        Witness.seen = []
        return super().configure_optimizers()

    def train_dataloader(self) -> DataLoader[Any]:
        data: Any = torch.randn(self.rows, 4, generator=torch.manual_seed(1))
        return DataLoader(data, batch_size=self.batch_size)


def found(path: Path, *callbacks: Any, **options: Any) -> tuple[Any, list[float]]:
    finder = Tuner(trainer(path, *callbacks, **options)).lr_find(
        Tuned(), num_training=30, max_lr=100, early_stop_threshold=None
    )
    assert finder
    return finder.results["loss"], Witness.seen


def test_trials_of_the_learning_rate_ahead_of_the_fit_are_clipped(
    tmp_path: Path,
) -> None:
    losses, norms = found(tmp_path, GradGuard(ClipNorm(MAX_NORM)))

    expected, _ = found(tmp_path, gradient_clip_val=MAX_NORM)
    assert losses == pytest.approx(expected, rel=1e-5)
    assert max(norms) == pytest.approx(MAX_NORM, rel=1e-4)


def test_trials_of_an_observer_are_left_alone(tmp_path: Path) -> None:
    losses, norms = found(tmp_path, GradGuard())

    expected, _ = found(tmp_path)
    assert losses == expected
    assert max(norms) > MAX_NORM


class InMidFit(LearningRateFinder):
    """Looks for a learning rate at the start of each of two epochs, as its docs advise."""

    def __init__(self) -> None:
        super().__init__(0.001, 1.0, 15, early_stop_threshold=None, update_attr=False)

    def on_fit_start(self, *_: Any) -> None: ...

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        before = list(Witness.seen)
        self.lr_find(trainer, pl_module)
        Witness.seen = before


def fitted(path: Path, *callbacks: Any) -> Tuned:
    model = Tuned(12)
    trainer(path, *callbacks, InMidFit(), max_epochs=2).fit(model)
    return model


def test_trials_in_mid_fit_are_not_recorded(tmp_path: Path) -> None:
    fitted(tmp_path, GradGuard())

    records = read_run(tmp_path / "run")
    assert records.steps.tolist() == list(range(12))
    np.testing.assert_allclose(records.total_before, Witness.seen, rtol=1e-5)


def test_trials_in_mid_fit_leave_the_weights_as_without_gradguard(
    tmp_path: Path,
) -> None:
    observed = fitted(tmp_path, GradGuard())

    assert same_weights(observed, fitted(tmp_path / "without"))


def test_trials_in_mid_fit_teach_a_policy_nothing(tmp_path: Path) -> None:
    guard = GradGuard(AutoClip(50))

    fitted(tmp_path, guard)

    assert guard._learned[0]["0.AutoClip"]["seen"] == 12


def test_trials_of_the_batch_size_are_clipped(tmp_path: Path) -> None:
    Tuner(trainer(tmp_path, GradGuard(ClipNorm(MAX_NORM)))).scale_batch_size(
        Tuned(), steps_per_trial=2, max_trials=3
    )

    assert max(Witness.seen) == pytest.approx(MAX_NORM, rel=1e-4)


def test_fit_behind_a_trial_begins_at_step_zero(tmp_path: Path) -> None:
    lightning, model = trainer(tmp_path, GradGuard(ClipNorm(MAX_NORM))), Tuned(12)
    Tuner(lightning).lr_find(model, num_training=10, early_stop_threshold=None)

    lightning.fit(model)

    records = read_run(tmp_path / "run")
    assert records.steps.tolist() == list(range(6))
    assert records.total_after.max() <= MAX_NORM * (1 + 1e-4)


def learned_anew(path: Path, guard: GradGuard) -> bool:
    """Whether a guard learns in another Trainer what a new one learns."""
    expected = GradGuard(AutoClip(50))
    trainer(path / "new", expected).fit(Tuned(12))
    trainer(path / "used", guard).fit(Tuned(12))
    return repr(guard._learned) == repr(expected._learned)


def test_trials_in_mid_fit_are_no_checkpoint_for_the_next_trainer(
    tmp_path: Path,
) -> None:
    guard = GradGuard(AutoClip(50))
    fitted(tmp_path, guard)

    assert learned_anew(tmp_path, guard)


def test_trials_ahead_of_a_fit_do_not_carry_over_from_another_trainer(
    tmp_path: Path,
) -> None:
    guard = GradGuard(AutoClip(50))
    trainer(tmp_path / "first", guard).fit(Tuned(40))
    second, model = trainer(tmp_path / "second", guard), Tuned(12)
    Tuner(second).lr_find(model, num_training=10, early_stop_threshold=None)
    second.fit(model)

    assert guard._learned[0]["0.AutoClip"]["seen"] == 6
