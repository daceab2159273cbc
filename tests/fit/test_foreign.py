"""Modules nobody here wrote: Lightning's own demos, with gradguard attached.

Beside each runs a copy of it in a plain loop. The GAN is the one of Lightning's docs.
"""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, seed_everything
from lightning.pytorch.demos.boring_classes import (
    BoringModel,
    DemoModel,
    ManualOptimBoringModel,
)
from lightning.pytorch.demos.lstm import LightningLSTM
from lightning.pytorch.demos.transformer import LightningTransformer
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adam
from torch.utils.data import DataLoader
from typing_extensions import override

from gradguard import GradGuard
from gradguard.tensorboard.reader import read_optimizers, read_run
from tests.support.oracle import (
    Adversaries,
    Loop,
    Turns,
    by_nothing,
    seen_of,
    to_norm,
)
from tests.support.trainers import same_weights, trainer

NUM_BATCHES = 4
VOCABULARY = 60

Loss = Callable[[Any, Any], Any]


class Reseed(Callback):
    """Starts every batch from the same seed as the plain loop, for its dropout."""

    def on_train_batch_start(self, _: Any, __: Any, ___: Any, batch_idx: int) -> None:
        torch.manual_seed(batch_idx)


def reseeded(loss: Loss) -> Loss:
    """The same loss of a numbered batch, which seeds its dropout."""

    def loss_of(model: Any, numbered: tuple[int, Any]) -> Any:
        number, batch = numbered
        torch.manual_seed(number)
        return loss(model, batch)

    return loss_of


def fit(path: Path, model: LightningModule, batches: Any, **options: Any) -> None:
    quick = {"limit_val_batches": 0, "log_every_n_steps": 2}
    runner = trainer(path, Reseed(), GradGuard(), **quick, **options)
    runner.fit(model, DataLoader(batches, batch_size=None))


def vectors() -> list[Tensor]:
    return list(torch.randn(NUM_BATCHES, 3, 32, generator=torch.manual_seed(1)))


def tokens() -> list[tuple[Tensor, Tensor]]:
    shape = (NUM_BATCHES, 2, 2, 9)
    x, y = torch.randint(VOCABULARY, shape, generator=torch.manual_seed(1)).unbind(1)
    return list(zip(x, y, strict=True))


def boring_loss(model: Any, x: Tensor) -> Tensor:
    return functional.mse_loss(model.layer(x), torch.ones(3, 2))


def demo_loss(model: Any, x: Tensor) -> Tensor:
    total: Tensor = model(x).sum()
    return total


def transformer_loss(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    return functional.nll_loss(model.model(x, y), y.view(-1))


def lstm_loss(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    state = model.hidden or model.model.init_hidden(len(x))
    output, state = model.model(x, state)
    model.hidden = tuple(part.detach() for part in state)
    return functional.nll_loss(output, y.view(-1))


@dataclass(frozen=True)
class Demo:
    """A module of Lightning's, and what its training does."""

    make: Callable[[], LightningModule]
    loss: Loss
    batches: Callable[[], list[Any]]
    optimizer: Callable[[Iterable[Tensor]], torch.optim.Optimizer]
    rtol: float = 1e-5


DEMOS = {
    "boring": Demo(BoringModel, boring_loss, vectors, partial(SGD, lr=0.1)),
    "manual": Demo(ManualOptimBoringModel, boring_loss, vectors, partial(SGD, lr=0.1)),
    "demo": Demo(DemoModel, demo_loss, vectors, partial(Adam, lr=0.02)),
    "transformer": Demo(
        partial(LightningTransformer, VOCABULARY),
        transformer_loss,
        tokens,
        partial(SGD, lr=0.1),
        rtol=5e-5,  # 1.4e-5 on torch 2.6
    ),
    "lstm": Demo(
        partial(LightningLSTM, VOCABULARY),
        lstm_loss,
        tokens,
        partial(SGD, lr=20.0),
        rtol=2e-4,  # what torch's float32 norm of a million numbers is good for on a CPU
    ),
}


@pytest.mark.parametrize("demo", DEMOS.values(), ids=DEMOS)
def test_demo_of_lightning_is_recorded_as_a_plain_loop_sees_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demo: Demo
) -> None:
    seed_everything(7, verbose=False)
    model = demo.make()
    monkeypatch.setattr(model, "prepare_data", lambda: None)  # downloads a text
    # In manual optimisation Lightning refuses to clip.
    max_norm = 0.05 if model.automatic_optimization else None
    twin = copy.deepcopy(model)
    loop = Loop(
        to_norm(max_norm) if max_norm else by_nothing,
        loss=reseeded(demo.loss),
        optimizer=lambda model: demo.optimizer(model.parameters()),
    )
    seen = loop.run(twin, list(enumerate(demo.batches())))[""]

    fit(tmp_path, model, demo.batches(), gradient_clip_val=max_norm)

    assert seen.clipped is model.automatic_optimization
    assert seen.agree_with(read_run(tmp_path / "run"), rtol=demo.rtol)
    assert same_weights(model, twin)


class SimpleGAN(LightningModule):
    """As in Lightning's docs on manual optimisation, with networks of one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.G = nn.Sequential(nn.Linear(8, 32), nn.Tanh())
        self.D = nn.Sequential(nn.Linear(32, 1), nn.Sigmoid())
        self.automatic_optimization = False

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        optimizers: Any = self.optimizers()
        g_opt, d_opt = optimizers
        g_x = self.generate(batch)

        err_d = self.discriminator_loss(batch, g_x)
        d_opt.zero_grad()
        self.manual_backward(err_d)
        d_opt.step()

        err_g = self.generator_loss(g_x)
        g_opt.zero_grad()
        self.manual_backward(err_g)
        g_opt.step()

    def generate(self, x: Tensor) -> Any:
        return self.G(torch.randn(len(x), 8))

    def discriminator_loss(self, x: Tensor, g_x: Tensor) -> Any:
        real = functional.binary_cross_entropy(self.D(x), torch.ones(len(x), 1))
        d_z = self.D(g_x.detach())
        return real + functional.binary_cross_entropy(d_z, torch.zeros(len(x), 1))

    def generator_loss(self, g_x: Tensor) -> Any:
        return functional.binary_cross_entropy(self.D(g_x), torch.ones(len(g_x), 1))

    def configure_optimizers(self) -> Any:
        return [Adam(part.parameters(), lr=1e-2) for part in (self.G, self.D)]


class DocumentedTurns(Adversaries):
    """The discriminator comes first, though the generator's optimizer does."""

    @override
    def turns(self, model: Any) -> Turns:
        def loss_d(model: Any, x: Tensor) -> Any:
            return model.discriminator_loss(x, model.generate(x))

        def loss_g(model: Any, x: Tensor) -> Any:
            return model.generator_loss(model.generate(x))

        g_opt, d_opt = model.configure_optimizers()
        turns = (("optimizer_1", d_opt, loss_d), ("optimizer_0", g_opt, loss_g))
        return {
            name: (optimizer, partial(reseeded(loss), model), seen_of(model, optimizer))
            for name, optimizer, loss in turns
        }


def test_each_optimizer_of_the_documented_gan_has_its_own_norms(tmp_path: Path) -> None:
    seed_everything(7, verbose=False)
    model = SimpleGAN()
    twin = copy.deepcopy(model)
    expected = DocumentedTurns().run(twin, list(enumerate(vectors())))

    fit(tmp_path, model, vectors())

    runs = read_optimizers(tmp_path / "run")
    for optimizer, seen in expected.items():
        assert seen.agree_with(runs[optimizer], rtol=1e-5)
