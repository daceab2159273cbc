"""One small network, trained in every way Lightning lets a user write it."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.utils import clip_grad_norm_
from torch.optim import LBFGS, SGD, AdamW, Optimizer
from torch.utils.data import DataLoader
from typing_extensions import override

from tests.support.oracle import CLIP_VALUE, MAX_NORM, SCALE

NUM_BATCHES = 7

sgd = partial(SGD, lr=0.05)
nesterov = partial(SGD, lr=0.05, momentum=0.9, nesterov=True, foreach=True)
fused = partial(AdamW, lr=0.01, fused=True)
lbfgs = partial(LBFGS, lr=0.1, max_iter=4)


class SteppingTwice(SGD):
    """Its step() calls the step() it inherits, so torch fires its hooks twice."""

    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


class Wrapping(Optimizer):
    """Never calls Optimizer.__init__, as wrappers such as Lookahead do."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self.inner = sgd(parameters)
        self.param_groups = self.inner.param_groups
        self.defaults, self.state = self.inner.defaults, self.inner.state

    def step(self, closure: Any = None) -> Any:
        return self.inner.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.inner.zero_grad(set_to_none)


class Net(LightningModule):
    """Two layers, always of the same weights; the rest of a mode is up to the subclass."""

    def __init__(self, optimizer: Callable[..., Optimizer] = sgd) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.first = nn.Linear(4, 8)
        self.second = nn.Linear(8, 1)
        self.optimizer = optimizer

    def batches(self) -> list[Tensor]:
        x = torch.randn(NUM_BATCHES, 2, 4, generator=torch.manual_seed(1))
        return list(x * torch.linspace(0.3, 2, NUM_BATCHES)[:, None, None])

    def train_dataloader(self) -> DataLoader[Any]:
        batches: Any = self.batches()
        return DataLoader(batches, batch_size=None)

    def loss(self, x: Tensor) -> Tensor:
        return 3 * self.output(x).square().mean()

    def output(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x).tanh())
        return y

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        return self.loss(batch)

    def configure_optimizers(self) -> Any:
        return self.optimizer(p for p in self.parameters() if p.requires_grad)


class Pausing(Net):
    @override
    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        return None if batch_idx in (2, 4) else self.loss(batch)


class Overflowing(Net):
    """One batch is too large for float16."""

    @override
    def batches(self) -> list[Tensor]:
        first, second, third, *others = super().batches()
        return [first, second, third * 1e6, *others]


class HookClipsByLightning(Net):
    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        self.clip_gradients(optimizer, MAX_NORM, "norm")


class HookClipsByTorch(Net):
    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        torch.nn.utils.clip_grad_norm_(self.parameters(), MAX_NORM)


class HookClipsByImport(Net):
    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        clip_grad_norm_(self.parameters(), MAX_NORM)


class ClipsBeforeStep(Net):
    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        clip_grad_norm_(self.parameters(), MAX_NORM)


class ClipsAfterBackward(Net):
    def on_after_backward(self) -> None:
        clip_grad_norm_(self.parameters(), MAX_NORM)


class ClipsInBackward(Net):
    def backward(self, loss: Tensor) -> None:
        super().backward(loss)
        clip_grad_norm_(self.parameters(), MAX_NORM)


class ClampsByTensorHooks(Net):
    def __init__(self) -> None:
        super().__init__()
        for parameter in self.parameters():
            clamp: Any = partial(torch.clamp_, min=-CLIP_VALUE, max=CLIP_VALUE)
            parameter.register_hook(clamp)  # type: ignore[no-untyped-call] # torch's


class ClipsInOptimizerStep(Net):
    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        def closure() -> Any:
            loss = optimizer_closure()
            clip_grad_norm_(self.parameters(), MAX_NORM)
            return loss

        super().optimizer_step(epoch, batch_idx, optimizer, closure)


class ClipsBeforeStepCallback(Callback):
    def on_before_optimizer_step(self, _: Any, module: Any, __: Any) -> None:
        clip_grad_norm_(module.parameters(), MAX_NORM)


class ClipsAfterBackwardCallback(Callback):
    def on_after_backward(self, _: Any, module: Any) -> None:
        clip_grad_norm_(module.parameters(), MAX_NORM)


ManualClip = Callable[[Any, Any], None]


def no_clip(_: Net, __: Any) -> None: ...


def lightning_clip(module: Net, optimizer: Any) -> None:
    module.clip_gradients(optimizer, MAX_NORM, "norm")


def lightning_value_clip(module: Net, optimizer: Any) -> None:
    module.clip_gradients(optimizer, CLIP_VALUE, "value")


def torch_clip(module: Net, _: Any) -> None:
    torch.nn.utils.clip_grad_norm_(module.parameters(), MAX_NORM)


def imported_clip(module: Net, _: Any) -> None:
    clip_grad_norm_(module.parameters(), MAX_NORM)


def handwritten_clip(module: Net, _: Any) -> None:
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    total = torch.stack([gradient.norm() for gradient in gradients]).norm()
    for gradient in gradients:
        gradient.mul_((MAX_NORM / (total + 1e-6)).clamp(max=1.0))


def own_clip(_: Net, optimizer: Any) -> None:
    clip_grad_norm_(optimizer.param_groups[0]["params"], MAX_NORM)


class Manual(Net):
    """The user's own loop: zero_grad, backward, clip, step."""

    def __init__(self, clip: ManualClip, optimizer: Any = sgd) -> None:
        super().__init__(optimizer)
        self.automatic_optimization = False
        self.clip = clip

    @override
    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.backpropagate(self.loss(batch))
        self.clip(self, optimizer)
        optimizer.step()

    def backpropagate(self, loss: Tensor) -> None:
        self.manual_backward(loss)


class ManualBeforeStep(Manual):
    """Clips in the hook before the update, where gradients are unscaled."""

    @override
    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.backpropagate(self.loss(batch))
        optimizer.step()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        self.clip(self, optimizer)


class ManualRawBackward(Manual):
    @override
    def backpropagate(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]


class ManualRawRetry(ManualRawBackward):
    """Its backward passes fail half-way, as for want of memory, and are run again."""

    @override
    def backpropagate(self, loss: Tensor) -> None:
        def fail(_: Tensor) -> None:
            raise RuntimeError("out of memory")

        handle = self.first.weight.register_hook(fail)  # type: ignore[no-untyped-call]
        with suppress(RuntimeError):
            loss.backward(retain_graph=True)  # type: ignore[no-untyped-call]
        handle.remove()
        self.zero_grad()
        super().backpropagate(loss)


class ManualRawOptimizer(Manual):
    """Steps the optimizer of torch, past every hook of Lightning."""

    @override
    def optimizers(self, use_pl_optimizer: bool = False) -> Any:
        return super().optimizers(use_pl_optimizer=False)


class ManualRawBoth(ManualRawBackward, ManualRawOptimizer):
    """Of Lightning, only the loop over batches is left."""


class ManualClosure(Manual):
    @override
    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = self.loss(batch)
            self.backpropagate(loss)
            self.clip(self, optimizer)
            return loss

        optimizer.step(closure=closure)


class ManualRawClosure(ManualRawBackward, ManualClosure):
    """The same, with the backward pass of torch."""


class ManualAccumulation(Manual):
    @override
    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()
        self.backpropagate(self.loss(batch) / 3)
        if (batch_idx + 1) % 3 == 0 or self.trainer.is_last_batch:
            self.clip(self, optimizer)
            optimizer.step()
            optimizer.zero_grad()


class ManualRawAccumulation(ManualRawBackward, ManualAccumulation):
    """The same, with the backward pass of torch."""


class Gan(Manual):
    """A generator and a discriminator, each with its optimizer."""

    def __init__(self, clip: ManualClip) -> None:
        super().__init__(clip)
        del self.first, self.second
        self.generator = nn.Linear(4, 4)
        self.discriminator = nn.Linear(4, 1)

    def generator_loss(self, x: Tensor) -> Any:
        return (self.discriminator(self.generator(x).tanh()) - 3).square().mean()

    def discriminator_loss(self, x: Tensor) -> Any:
        fake = self.discriminator(self.generator(x).tanh().detach())
        return fake.square().mean() + (self.discriminator(x) - 3).square().mean()

    @override
    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        losses = (self.generator_loss, self.discriminator_loss)
        optimizers: Any = self.optimizers()
        for optimizer, loss in zip(optimizers, losses, strict=True):
            self.toggle_optimizer(optimizer)
            optimizer.zero_grad()
            self.backpropagate(loss(batch))
            self.clip(self, optimizer)
            optimizer.step()
            self.untoggle_optimizer(optimizer)

    @override
    def configure_optimizers(self) -> Any:
        return [sgd(m.parameters()) for m in (self.generator, self.discriminator)]


class RawGan(ManualRawBackward, Gan):
    """The same, with the backward pass of torch."""


class GanAtOnce(Gan):
    """Both losses and both clips come first, then both updates."""

    @override
    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        losses = (self.generator_loss, self.discriminator_loss)
        optimizers: Any = self.optimizers()
        for optimizer, loss in zip(optimizers, losses, strict=True):
            self.toggle_optimizer(optimizer)
            optimizer.zero_grad()
            self.backpropagate(loss(batch))
            self.clip(self, optimizer)
            self.untoggle_optimizer(optimizer)
        for optimizer in optimizers:
            optimizer.step()


class GanNeverToggled(GanAtOnce):
    """The same, where each backward pass may reach the other's parameters."""

    @override
    def toggle_optimizer(self, optimizer: Any) -> None: ...

    @override
    def untoggle_optimizer(self, optimizer: Any) -> None: ...


class ManualOwnScaler(ManualRawOptimizer):
    """Scales its loss by a scaler that Lightning does not know."""

    @override
    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        scaler = GradScaler("cpu", init_scale=SCALE)
        self.backpropagate(scaler.scale(self.loss(batch)))
        scaler.unscale_(optimizer)
        self.clip(self, optimizer)
        scaler.step(optimizer)


class Frozen(Net):
    """The optimizer holds parameters that get no gradient."""

    def __init__(self, optimizer: Callable[..., Optimizer] = sgd) -> None:
        super().__init__(optimizer)
        self.unused = nn.Parameter(torch.ones(3))
        self.first.bias.requires_grad_(False)

    @override
    def configure_optimizers(self) -> Any:
        return self.optimizer(self.parameters())


class Tied(Net):
    """One weight in two places, under the name of the first."""

    def __init__(self, optimizer: Callable[..., Optimizer] = sgd) -> None:
        super().__init__(optimizer)
        self.third = nn.Linear(4, 8)
        self.third.weight = self.first.weight

    @override
    def output(self, x: Tensor) -> Tensor:
        y: Tensor = self.second((self.first(x) - self.third(x.cos())).tanh())
        return y


class Sparse(Net):
    """The gradient of its table is sparse, and names rows twice."""

    def __init__(self, optimizer: Callable[..., Optimizer] = sgd) -> None:
        super().__init__(optimizer)
        self.table = nn.Embedding(5, 4, sparse=True)

    @override
    def output(self, x: Tensor) -> Tensor:
        rows = torch.tensor([[0, 0, 1], [1, 3, 3]])
        return super().output(x + self.table(rows).sum(dim=1))


class Complex(Net):
    def __init__(self, optimizer: Callable[..., Optimizer] = sgd) -> None:
        super().__init__(optimizer)
        self.phase = nn.Parameter(torch.tensor([1 + 2j, 3 - 1j, -1j, 1]))

    @override
    def output(self, x: Tensor) -> Tensor:
        return super().output((x * self.phase).abs())


class Backbone(Net):
    """What `BackboneFinetuning` freezes first, and unfreezes later."""

    def __init__(self, optimizer: Callable[..., Optimizer] = sgd) -> None:
        super().__init__(optimizer)
        self.backbone = nn.Linear(4, 4)

    @override
    def output(self, x: Tensor) -> Tensor:
        return super().output(self.backbone(x))


class CompiledPart(Net):
    """One of its layers is compiled, which Lightning does not undo."""

    def __init__(self, optimizer: Callable[..., Optimizer] = sgd) -> None:
        super().__init__(optimizer)
        self.second = torch.compile(self.second, backend="eager")  # type: ignore[assignment]
