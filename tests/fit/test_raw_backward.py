"""Norms before clipping where some backward passes are run past Lightning."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD

from gradguard import GradGuard
from gradguard.tensorboard.reader import read_optimizers, read_run
from tests.support.trainers import Twenty, trainer

MAX_NORM = 0.05

pytestmark = pytest.mark.filterwarnings("ignore:no optimizer holds unused")


class Manual(Twenty):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def run(self, loss: Any) -> None:
        """Run a backward pass by itself, as a loop without Lightning would."""
        loss.backward()


class Adversarial(Manual):
    """One optimizer's pass is run by Lightning, the other's, which clips, is not."""

    def configure_optimizers(self) -> Any:
        return SGD(self.first.parameters(), 0.05), SGD(self.second.parameters(), 0.05)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        generator, critic = self.optimizers()  # type: ignore[attr-defined]
        self.zero_grad()
        self.manual_backward(self.loss(batch))
        generator.step()
        self.zero_grad()
        self.run(self.loss(batch))
        clip_grad_norm_(self.second.parameters(), MAX_NORM)
        critic.step()


def totals_of_critic() -> list[float]:
    model, totals = Adversarial(), []
    generator, critic = model.configure_optimizers()
    for batch in model.train_dataloader():
        model.zero_grad()
        model.run(model.loss(batch))
        generator.step()
        model.zero_grad()
        model.run(model.loss(batch))
        totals.append(float(clip_grad_norm_(model.second.parameters(), MAX_NORM)))
        critic.step()
    return totals


def test_raw_pass_beside_one_of_lightnings_is_seen(tmp_path: Path) -> None:
    trainer(tmp_path, GradGuard()).fit(Adversarial())

    critic = read_optimizers(tmp_path / "run")["optimizer_1"]
    np.testing.assert_allclose(critic.total_before, totals_of_critic(), rtol=1e-5)
    np.testing.assert_allclose(critic.total_after, MAX_NORM, rtol=1e-4)


class LaterRaw(Manual):
    """Past Lightning from the sixth batch on."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.zero_grad()
        run = self.manual_backward if batch_idx < 5 else self.run
        run(self.loss(batch))
        clip_grad_norm_(self.parameters(), MAX_NORM)
        self.optimizers().step()  # type: ignore[union-attr]


def test_raw_passes_are_seen_from_the_second_one_on(tmp_path: Path) -> None:
    trainer(tmp_path, GradGuard()).fit(LaterRaw())

    records = read_run(tmp_path / "run")
    clipped = records.total_before > MAX_NORM * (1 + 1e-4)
    assert clipped.tolist() == [step != 5 for step in range(20)]


class HookedLate(Twenty):
    """Puts hooks on its parameters when training has started already."""

    def on_train_epoch_start(self) -> None:
        for parameter in self.parameters():
            if parameter.requires_grad:
                parameter.register_hook(lambda gradient: gradient / 100)  # type: ignore[no-untyped-call]


def test_tensor_hooks_put_at_the_start_of_an_epoch_are_seen(tmp_path: Path) -> None:
    trainer(tmp_path, GradGuard()).fit(HookedLate())

    records = read_run(tmp_path / "run")
    np.testing.assert_allclose(
        records.total_before, 100 * records.total_after, rtol=1e-5
    )


class Switching(Twenty):
    """Trains one layer in the first epoch and the other one in the second."""

    def backward(self, loss: Any, *_: Any) -> None:
        loss.backward()
        clip_grad_norm_(self.parameters(), MAX_NORM)

    def configure_optimizers(self) -> Any:
        self.second.requires_grad_(False)
        return SGD([*self.first.parameters(), *self.second.parameters()], 0.05)

    def on_train_epoch_start(self) -> None:
        self.first.requires_grad_(self.current_epoch == 0)
        self.second.requires_grad_(self.current_epoch == 1)


def test_passes_that_reach_other_parameters_than_at_first_are_seen(
    tmp_path: Path,
) -> None:
    trainer(tmp_path, GradGuard(), max_epochs=2).fit(Switching())

    records = read_run(tmp_path / "run")
    assert len(records.steps) == 40
    assert records.total_before.min() > MAX_NORM * (1 + 1e-4)
    assert records.total_after.max() == pytest.approx(MAX_NORM, rel=1e-4)
