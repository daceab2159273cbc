"""A bad step that is set up again ends in the gradients it had, to the bit."""

import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.utils.data import DataLoader, IterableDataset
from typing_extensions import override

from gradguard import GradGuard
from gradguard.replay.load import load
from gradguard.replay.reproduced import differences
from gradguard.replay.stage import Stage, on_stage
from tests.support.modules import (
    Gan,
    Manual,
    ManualAccumulation,
    ManualBeforeStep,
    ManualClosure,
    ManualRawBackward,
    ManualRawBoth,
    Net,
    RawGan,
    no_clip,
)
from tests.support.trainers import QUIET, fit

pytestmark = pytest.mark.filterwarnings("ignore:update skipped:UserWarning")


class Breaking:
    """Draws noise, logs, asks the Trainer where it is, and breaks at its tenth loss."""

    module: Any

    def batches(self) -> list[Tensor]:
        return list(torch.randn(20, 6, 4, generator=torch.manual_seed(1)))

    def on_fit_start(self) -> None:
        self.losses = 0
        self.gradients: list[dict[str, Tensor]] = []

    def broken(self, loss: Any) -> Any:
        this: Any = self
        this.log("noisy_loss", loss, prog_bar=True, on_epoch=True)
        this.logger.log_metrics({"at": 0.0})
        noise = random.random() + np.random.rand() + torch.rand(())  # noqa: NPY002 (all that users seed)
        learning_rate = _first(this.optimizers()).param_groups[0]["lr"]
        where = this.trainer.global_step * 20 + this.current_epoch + learning_rate
        assert this.trainer.training
        self.losses += 1
        return loss * noise * (1 + where / 100) * (math.inf if self.is_bad else 1)

    @property
    def is_bad(self) -> bool:
        trainer: Any = self.trainer  # type: ignore[attr-defined] # of the module it is mixed into
        return bool(trainer.fit_loop.epoch_loop.batch_idx == 7)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        named = self.named_parameters()  # type: ignore[attr-defined] # likewise
        self.gradients.append(
            {name: p.grad.clone() for name, p in named if p.grad is not None}
        )


def _first(found: Any) -> Any:
    return found[0] if isinstance(found, list) else found


class Automatic(Breaking, Net):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.5)

    @override
    def output(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.drop(self.norm(self.first(x))).tanh())
        return y

    @override
    def loss(self, x: Tensor) -> Any:
        return self.broken(super().loss(x))


class ReturnsDict(Automatic):
    @override
    def training_step(self, batch: Tensor) -> Any:  # type: ignore[override] # no index
        return {"loss": self.loss(batch), "more": batch.sum()}


class Unsized(Automatic):
    """Its loader does not say how many batches there are."""

    @override
    def train_dataloader(self) -> Any:
        class Stream(IterableDataset[Tensor]):
            @override
            def __iter__(self) -> Iterator[Tensor]:
                return iter(batches)

        batches = self.batches()
        return DataLoader(Stream(), batch_size=None)


class Stateful(Automatic):
    """Goes on from what its last batch has left in an attribute."""

    state: tuple[Tensor, float] = (torch.zeros(()), 1.0)

    @override
    def loss(self, x: Tensor) -> Any:
        loss = super().loss(x) * (1 + self.state[0].abs()) * self.state[1]
        self.state = (self.first(x).mean(), self.state[1] + 1)
        return loss


def by_hand(kind: Any) -> type:
    class ByHand(Breaking, kind):  # type: ignore[misc] # a parameter
        def __init__(self) -> None:
            super().__init__(no_clip)

        def loss(self, x: Tensor) -> Any:
            return self.broken(super().loss(x))

    return ByHand


def adversarial(kind: Any) -> type:
    class Adversarial(Breaking, kind):  # type: ignore[misc] # a parameter
        """The second update of a batch is bad; the first changes what it sees."""

        def __init__(self) -> None:
            super().__init__(no_clip)

        def discriminator_loss(self, x: Tensor) -> Any:
            return self.broken(super().discriminator_loss(x))

    return Adversarial


class BehindTheScaler(Automatic):
    """Breaks where the scaler has looked already, so that it skips nothing."""

    @override
    def broken(self, loss: Any) -> Any:
        return loss

    @override
    def on_before_optimizer_step(self, optimizer: Any) -> None:
        if self.is_bad:
            assert self.second.weight.grad is not None
            self.second.weight.grad[0, 0] = math.nan
        super().on_before_optimizer_step(optimizer)


def half() -> dict[str, Any]:
    scaler = GradScaler("cpu", init_scale=64.0)
    return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler)]}


MODES: dict[str, tuple[type, dict[str, Any]]] = {
    "automatic": (Automatic, {}),
    "a dict, and no batch_idx": (ReturnsDict, {}),
    "a stream of batches": (Unsized, {}),
    "a state in an attribute": (Stateful, {}),
    "accumulated": (Automatic, {"accumulate_grad_batches": 3}),
    "accumulated, cut short": (
        Automatic,
        {"accumulate_grad_batches": 3, "limit_train_batches": 8},
    ),
    "clipped by norm": (Automatic, {"gradient_clip_val": 0.1}),
    "clipped by value": (
        Automatic,
        {"gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"},
    ),
    "16-mixed": (BehindTheScaler, half()),
    "bf16-mixed": (Automatic, {"precision": "bf16-mixed"}),
    "bf16-true": (Automatic, {"precision": "bf16-true"}),
    "16-true": (Automatic, {"precision": "16-true"}),
    "64-true": (Automatic, {"precision": "64-true"}),
    "manual": (by_hand(Manual), {}),
    "manual, accumulated": (by_hand(ManualAccumulation), {}),
    "manual, hooked": (by_hand(ManualBeforeStep), {}),
    "manual, closure": (by_hand(ManualClosure), {}),
    "manual, raw backward": (by_hand(ManualRawBackward), {}),
    "manual, all raw": (by_hand(ManualRawBoth), {}),
    "adversarial": (adversarial(Gan), {}),
    "adversarial, raw": (adversarial(RawGan), {}),
}


def dumped(path: Path, model: Any, **options: Any) -> Path:
    guard = GradGuard(on_nonfinite="skip", dump_dir=path / "dump")
    fit(path, guard, model=model, **options)
    (file,) = (path / "dump").iterdir()
    return file


@pytest.mark.parametrize("mode", MODES)
def test_step_is_reproduced_to_the_bit_as_often_as_it_is_run(
    tmp_path: Path, mode: str
) -> None:
    kind, options = MODES[mode]
    torch.manual_seed(3)
    trained: Any = kind()
    bad = load(dumped(tmp_path, trained, **options))
    again: Any = kind()

    def act(stage: Stage) -> list[dict[str, Tensor]]:
        found = []
        state = {n: t.clone() for n, t in again.state_dict().items()}
        for _ in range(3):
            again.load_state_dict(state)
            for parameter in again.parameters():
                parameter.grad = None
            stage.run(stage.batches)
            stage.finish()
            assert differences(bad, again) == []
            named = again.named_parameters()
            found.append({n: p.grad.clone() for n, p in named if p.grad is not None})
        return found

    runs = on_stage(bad, again, act)

    for run in runs:
        assert same(run, runs[0])
    seen = [step for step in trained.gradients if any_bad(step)]
    if seen and not options.get("gradient_clip_val"):
        assert same(runs[0], seen[0])


def test_loss_is_scaled_as_in_the_run(tmp_path: Path) -> None:
    bad = load(dumped(tmp_path, BehindTheScaler(), **half()))

    assert on_stage(bad, BehindTheScaler(), lambda stage: stage.loss_scale) == 64.0


def test_environment_cannot_put_a_guard_into_the_replay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = load(dumped(tmp_path, Automatic()))
    monkeypatch.setenv("GRADGUARD", "clip_norm=0.001,on_nonfinite=raise")
    again = Automatic()

    def act(stage: Stage) -> None:
        stage.run(stage.batches)
        stage.finish()

    on_stage(bad, again, act)

    assert differences(bad, again) == []


def test_module_of_the_other_namespace_meets_its_own_trainer(tmp_path: Path) -> None:
    other = pytest.importorskip("pytorch_lightning")

    base: Any = other.LightningModule

    class Other(base):  # type: ignore[misc] # Any
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(4, 1)

        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            assert isinstance(self.trainer, other.Trainer)
            return self.line(batch).mean() * (math.inf if batch_idx == 2 else 1)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    guard = GradGuard(on_nonfinite="skip", dump_dir=tmp_path / "dump")
    options: dict[str, Any] = {**QUIET, "logger": other.loggers.CSVLogger(tmp_path)}
    batches: Any = list(torch.randn(4, 2, 4))
    other.Trainer(max_epochs=1, log_every_n_steps=1, callbacks=[guard], **options).fit(
        Other(), DataLoader(batches, batch_size=None)
    )
    (file,) = (tmp_path / "dump").iterdir()
    bad, again = load(file), Other()

    on_stage(bad, again, lambda stage: stage.run(stage.batches))

    assert differences(bad, again) == []


def any_bad(gradients: dict[str, Tensor]) -> bool:
    return not all(gradient.isfinite().all() for gradient in gradients.values())


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[name].nan_to_num(7), other[name].nan_to_num(7)) for name in one
    )
