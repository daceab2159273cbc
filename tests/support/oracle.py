"""Training loops in plain PyTorch that write down what gradients were, for every mode.

They know neither gradguard nor Lightning: where the oracle agrees with a Trainer's run,
both computed the same gradients, and gradguard looked at them at the right moments.
Several processes are one loop here, over the batches of all of them.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from typing_extensions import override

if TYPE_CHECKING:  # what is compared, of which nothing is called
    from gradguard.records.records import Records

MAX_NORM = 0.8
CLIP_VALUE = 0.1
SCALE = 1024.0

Clip: TypeAlias = Callable[[list[Tensor]], Any]
Floats: TypeAlias = NDArray[np.float64]


def by_nothing(_: list[Tensor]) -> None: ...


def to_norm(max_norm: float) -> Clip:
    return partial(clip_grad_norm_, max_norm=max_norm)


def to_value(clip_value: float) -> Clip:
    return partial(clip_grad_value_, clip_value=clip_value)


by_norm = to_norm(MAX_NORM)
by_value = to_value(CLIP_VALUE)
# What is left of a threshold in a clip of gradients that are still scaled.
by_scaled_norm = to_norm(MAX_NORM / SCALE)


def by_hand(parameters: list[Tensor]) -> None:
    """Scale down to MAX_NORM, also where torch's own clip raises (sparse gradients)."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    total = sum(norm(gradient) ** 2 for gradient in gradients) ** 0.5
    for gradient in gradients:
        gradient.mul_(min(1.0, MAX_NORM / (total + 1e-6)))


def norm(gradient: Tensor) -> float:
    wide = torch.complex128 if gradient.is_complex() else torch.float64
    return float(gradient.to_dense().to(wide).abs().square().sum().sqrt())


@dataclass
class Seen:
    """What the gradients of some parameters were, a row a step; None for no gradient.

    Where the loop is asked for statistics, `weights` has mean and standard deviation at
    the start and after each step, `[1 + S, P, 2]`, and `updates`, of each step, `[S, P,
    4]`, the gradient's mean, standard deviation and mean absolute value, and the norm of
    the update over that of the weight.
    """

    parameters: dict[str, Tensor]
    steps: list[int] = field(default_factory=list)
    before: list[list[float | None]] = field(default_factory=list)
    after: list[list[float | None]] = field(default_factory=list)
    skipped: list[bool] = field(default_factory=list)
    weights: list[Floats] = field(default_factory=list)
    updates: list[Floats] = field(default_factory=list)

    def note_before(self, step: int) -> None:
        self.steps.append(step)
        self.before.append(self._norms())

    def note_after(self, *, skipped: bool = False) -> None:
        self.after.append([None] * len(self.parameters) if skipped else self._norms())
        self.skipped.append(skipped)

    def note_update(self, take_step: Callable[[], object]) -> None:
        """Take the step, and note what it was made of and how far it went."""
        parameters = list(self.parameters.values())
        old, gradients = _arrays(parameters), _arrays([p.grad for p in parameters])
        take_step()
        new = _arrays(parameters)
        with np.errstate(divide="ignore"):  # biases start at zero
            moved = [_length(b - a) / _length(a) for a, b in zip(old, new, strict=True)]
        sizes = [abs(gradient).mean() for gradient in gradients]
        self.weights += (
            [_moments(new)] if self.weights else [_moments(old), _moments(new)]
        )
        self.updates.append(np.column_stack([_moments(gradients), sizes, moved]))

    def epochs(self, num_steps: int) -> Floats:
        """Return the statistics by epochs of that many steps, `[1 + epochs, P, 6]`.

        The first row has the weights at the start, and the first update.
        """
        last = range(num_steps - 1, len(self.updates), num_steps)
        rows = [(0, 0), *((step + 1, step) for step in last)]
        return np.array(
            [np.hstack([self.weights[w], self.updates[u]]) for w, u in rows]
        )

    @property
    def clipped(self) -> bool:
        """Whether gradients were changed between the moments, at some step."""
        rows = zip(self.before, self.after, self.skipped, strict=True)
        return any(before != after for before, after, skipped in rows if not skipped)

    def agree_with(self, run: "Records", *, rtol: float) -> bool:
        """Compare all there is of a run; fail as numpy does, where it differs."""
        np.testing.assert_array_equal(sorted(run.names), sorted(self.parameters))
        columns = [run.names.index(name) for name in self.parameters]
        np.testing.assert_array_equal(run.steps, self.steps)
        np.testing.assert_array_equal(run.skipped, self.skipped)
        before, after = (np.array(rows, object) for rows in (self.before, self.after))
        np.testing.assert_array_equal(run.missing[:, columns], before == [None])
        for found, expected in ((run.before, before), (run.after, after)):
            expected_norms = expected.astype(np.float64)
            np.testing.assert_allclose(found[:, columns], expected_norms, rtol=rtol)
        return True

    def _norms(self) -> list[float | None]:
        gradients = [parameter.grad for parameter in self.parameters.values()]
        return [None if g is None else norm(g) for g in gradients]


def _arrays(tensors: Sequence[Tensor | None]) -> list[Floats]:
    """Copy tensors; one NaN for none."""
    return [
        np.array([np.nan]) if t is None else t.detach().double().numpy().copy()
        for t in tensors
    ]


def _moments(values: list[Floats]) -> Floats:
    return np.array([[v.mean(), v.std()] for v in values])


def _length(values: Floats) -> np.float64:
    return np.float64(np.sqrt((values**2).sum()))


def _configured(model: Any) -> Any:
    return model.configure_optimizers()


def _own_loss(model: Any, x: Any) -> Any:
    return model.loss(x)


@dataclass(frozen=True)
class Loop:
    """One optimizer, one update per window of batches.

    `run` trains the model and returns what was seen, by optimizer; "" is the only one.

    Args:
        clip: What is done to the gradients between the moments.
        window: Batches whose gradients are added up before an update.
        epochs: How often the batches come.
        dtype: Of parameters and batches.
        autocast: Of the forward pass, where it is another.
        idle: Batches that have no loss.
        loss: Of model and batch; the model's own method unless it is given.
        optimizer: Makes it for the model; the model's own unless it is given.
        statistics: Whether weights and updates are seen, too.
    """

    clip: Clip = by_nothing
    window: int = 1
    epochs: int = 1
    dtype: torch.dtype = torch.float32
    autocast: torch.dtype | None = None
    idle: Collection[int] = ()
    loss: Callable[[Any, Any], Any] = _own_loss
    optimizer: Callable[[Any], Any] = _configured
    statistics: bool = False

    def run(
        self, model: Any, batches: Sequence[Any], scaler: GradScaler | None = None
    ) -> dict[str, Seen]:
        scaler = scaler or GradScaler("cpu", enabled=False)
        if self.dtype is not torch.float32:
            model.to(self.dtype)
            batches = [x.to(self.dtype) for x in batches]
        optimizer = self.optimizer(model)
        seen = seen_of(model)
        step = 0
        for epoch in range(self.epochs):
            self.start_epoch(epoch, model, optimizer)
            for index, x in enumerate(batches):
                if index % self.window == 0:
                    optimizer.zero_grad()
                if index not in self.idle:
                    with torch.autocast(
                        "cpu", self.autocast, bool(self.autocast), False
                    ):
                        loss = self.loss(model, x)
                    scaler.scale(loss / self.window).backward()
                if (index + 1) % self.window == 0 or index + 1 == len(batches):
                    self.update(optimizer, scaler, seen, step)
                    step += 1
        return {"": seen}

    def start_epoch(self, epoch: int, model: Any, optimizer: Any) -> None:
        """Do what a mode does between epochs."""

    def update(self, optimizer: Any, scaler: GradScaler, seen: Seen, step: int) -> None:
        parameters = held_with_gradient(optimizer)
        if not parameters:
            return
        scaler.unscale_(optimizer)
        seen.note_before(step)
        finite = all(math.isfinite(norm(p.grad)) for p in parameters)  # type: ignore[arg-type] # has one
        self.clip(parameters)
        seen.note_after(skipped=scaler.is_enabled() and not finite)
        take_step = partial(scaler.step, optimizer)
        if self.statistics:
            seen.note_update(take_step)
        else:
            take_step()
        scaler.update()


class EveryEvaluation(Loop):
    """An optimizer such as LBFGS, which evaluates the loss several times per step."""

    @override
    def run(
        self, model: Any, batches: Sequence[Any], scaler: GradScaler | None = None
    ) -> dict[str, Seen]:
        optimizer = model.configure_optimizers()
        seen = seen_of(model)
        for x in batches:

            def evaluate(x: Any = x) -> float:
                optimizer.zero_grad()
                loss = model.loss(x)
                loss.backward()
                seen.note_before(len(seen.steps))
                self.clip(held_with_gradient(optimizer))
                seen.note_after()
                return float(loss.detach())

            optimizer.step(evaluate)
        return {"": seen}


class ClampingEach(Loop):
    """Clamps the gradient of every batch by itself, before it is added to the window's."""

    def run(
        self, model: Any, batches: Sequence[Any], scaler: GradScaler | None = None
    ) -> dict[str, Seen]:
        optimizer = self.optimizer(model)
        seen = seen_of(model)
        parameters = list(model.parameters())
        for first in range(0, len(batches), self.window):
            window = batches[first : first + self.window]
            each = [
                torch.autograd.grad(model.loss(x) / self.window, parameters)
                for x in window
            ]
            for parameter, *gradients in zip(parameters, *each, strict=True):
                parameter.grad = torch.stack(gradients).sum(0)
            seen.note_before(first // self.window)
            for parameter, *gradients in zip(parameters, *each, strict=True):
                clamped = torch.stack(gradients).clamp(-CLIP_VALUE, CLIP_VALUE)
                parameter.grad = clamped.sum(0)
            seen.note_after()
            optimizer.step()
        return {"": seen}


@dataclass(frozen=True)
class TwoEpochs(Loop):
    """The backbone is frozen in the first epoch, and learns at 0.01 in the second."""

    epochs: int = 2

    @override
    def run(
        self, model: Any, batches: Sequence[Any], scaler: GradScaler | None = None
    ) -> dict[str, Seen]:
        model.backbone.requires_grad_(False)
        return super().run(model, batches, scaler)

    @override
    def start_epoch(self, epoch: int, model: Any, optimizer: Any) -> None:
        if epoch == 1:
            model.backbone.requires_grad_(True)
            group = {"params": list(model.backbone.parameters()), "lr": 0.01}
            optimizer.add_param_group(group)


Turns: TypeAlias = dict[str, tuple[Any, Callable[[Any], Any], Seen]]


class Adversaries(Loop):
    """A generator and a discriminator take turns on every batch."""

    def turns(self, model: Any) -> Turns:
        """Return optimizer and loss of each by name, in their order."""
        losses = (model.generator_loss, model.discriminator_loss)
        optimizers = model.configure_optimizers()
        return {
            f"optimizer_{i}": (optimizer, loss, seen_of(model, optimizer))
            for i, (optimizer, loss) in enumerate(zip(optimizers, losses, strict=True))
        }

    @override
    def run(
        self, model: Any, batches: Sequence[Any], scaler: GradScaler | None = None
    ) -> dict[str, Seen]:
        scaler = scaler or GradScaler("cpu", enabled=False)
        turns = self.turns(model)
        step = 0
        for x in batches:
            for optimizer, loss, seen in turns.values():
                optimizer.zero_grad()
                loss(x).backward()
                self.update(optimizer, scaler, seen, step)
                step += 1
        return {name: seen for name, (*_, seen) in turns.items()}


class AdversariesAtOnce(Adversaries):
    """Both learn from the same weights: losses and clips first, then the updates."""

    @override
    def run(
        self, model: Any, batches: Sequence[Any], scaler: GradScaler | None = None
    ) -> dict[str, Seen]:
        turns = self.turns(model)
        step = 0
        for x in batches:
            for optimizer, loss, seen in turns.values():
                optimizer.zero_grad()
                loss(x).backward(inputs=list(seen.parameters.values()))
                seen.note_before(step)
                self.clip(held_with_gradient(optimizer))
                seen.note_after()
                step += 1
            for optimizer, *_ in turns.values():
                optimizer.step()
        return {name: seen for name, (*_, seen) in turns.items()}


def held_with_gradient(optimizer: Any) -> list[Tensor]:
    held = [p for group in optimizer.param_groups for p in group["params"]]
    return [parameter for parameter in held if parameter.grad is not None]


def seen_of(model: nn.Module, optimizer: Any = None) -> Seen:
    """Start to look at the parameters, at those of one optimizer if there are several."""
    named: dict[str, Tensor] = {
        name.replace("_orig_mod.", ""): parameter  # what torch.compile puts in
        for name, parameter in model.named_parameters()
    }
    if optimizer is None:
        return Seen(named)
    held = {p for group in optimizer.param_groups for p in group["params"]}
    return Seen({name: p for name, p in named.items() if p in held})
