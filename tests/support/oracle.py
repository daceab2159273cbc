"""Training loops in plain PyTorch that write down what gradients were, for every mode.

They know neither gradguard nor Lightning: where the oracle agrees with a Trainer's run,
both computed the same gradients, and gradguard looked at them at the right moments.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from gradguard.records.records import Records

MAX_NORM = 0.8
CLIP_VALUE = 0.1
SCALE = 1024.0

Clip = Callable[[list[Tensor]], Any]


def by_nothing(_: list[Tensor]) -> None: ...


def by_norm(parameters: list[Tensor]) -> None:
    clip_grad_norm_(parameters, MAX_NORM)


def by_scaled_norm(parameters: list[Tensor]) -> None:
    """What is left of a threshold in a clip of gradients that are still scaled."""
    clip_grad_norm_(parameters, MAX_NORM / SCALE)


def by_value(parameters: list[Tensor]) -> None:
    clip_grad_value_(parameters, CLIP_VALUE)


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
    """What the gradients of some parameters were, a row a step; None for no gradient."""

    parameters: dict[str, Tensor]
    steps: list[int] = field(default_factory=list)
    before: list[list[float | None]] = field(default_factory=list)
    after: list[list[float | None]] = field(default_factory=list)
    skipped: list[bool] = field(default_factory=list)

    def note_before(self, step: int) -> None:
        self.steps.append(step)
        self.before.append(self._norms())

    def note_after(self, *, skipped: bool = False) -> None:
        self.after.append([None] * len(self.parameters) if skipped else self._norms())
        self.skipped.append(skipped)

    @property
    def clipped(self) -> bool:
        """Whether gradients were changed between the moments, at some step."""
        rows = zip(self.before, self.after, self.skipped, strict=True)
        return any(before != after for before, after, skipped in rows if not skipped)

    def agree_with(self, run: Records, *, rtol: float) -> bool:
        """Compare all there is of a run; fail as numpy does, where it differs."""
        np.testing.assert_array_equal(sorted(run.names), sorted(self.parameters))
        columns = [run.names.index(name) for name in self.parameters]
        np.testing.assert_array_equal(run.steps, self.steps)
        np.testing.assert_array_equal(run.skipped, self.skipped)
        before, after = _array(self.before), _array(self.after)
        np.testing.assert_array_equal(run.missing[:, columns], before == [None])
        for found, expected in ((run.before, before), (run.after, after)):
            expected_norms = expected.astype(np.float64)
            np.testing.assert_allclose(found[:, columns], expected_norms, rtol=rtol)
        return True

    def _norms(self) -> list[float | None]:
        gradients = [parameter.grad for parameter in self.parameters.values()]
        return [None if g is None else norm(g) for g in gradients]


def _array(rows: list[list[float | None]]) -> NDArray[np.object_]:
    return np.array(rows, dtype=object)


@dataclass(frozen=True)
class Loop:
    """One optimizer, one update per window of batches.

    `run` trains the model and returns what was seen, by optimizer; "" is the only one.

    Args:
        clip: What is done to the gradients between the moments.
        window: Batches whose gradients are added up before an update.
        dtype: Of parameters and batches.
        autocast: Of the forward pass, where it is another.
        idle: Batches that have no loss.
    """

    clip: Clip = by_nothing
    window: int = 1
    dtype: torch.dtype = torch.float32
    autocast: torch.dtype | None = None
    idle: Collection[int] = ()

    def run(
        self, model: Any, batches: Sequence[Tensor], scaler: GradScaler
    ) -> dict[str, Seen]:
        if self.dtype is not torch.float32:
            model.to(self.dtype)
        optimizer = model.configure_optimizers()
        seen = Seen(_named(model))
        for index, x in enumerate(batches):
            if index % self.window == 0:
                optimizer.zero_grad()
            if index not in self.idle:
                with torch.autocast("cpu", self.autocast, bool(self.autocast), False):
                    loss = model.loss(x.to(self.dtype))
                scaler.scale(loss / self.window).backward()
            if (index + 1) % self.window == 0 or index + 1 == len(batches):
                self._update(optimizer, scaler, seen, index // self.window)
        return {"": seen}

    def _update(
        self, optimizer: Any, scaler: GradScaler, seen: Seen, step: int
    ) -> None:
        parameters = held_with_gradient(optimizer)
        if not parameters:
            return
        scaler.unscale_(optimizer)
        seen.note_before(step)
        finite = all(math.isfinite(norm(p.grad)) for p in parameters)  # type: ignore[arg-type] # has one
        self.clip(parameters)
        seen.note_after(skipped=scaler.is_enabled() and not finite)
        scaler.step(optimizer)
        scaler.update()


class EveryEvaluation(Loop):
    """An optimizer such as LBFGS, which evaluates the loss several times per step."""

    def run(
        self, model: Any, batches: Sequence[Tensor], scaler: GradScaler
    ) -> dict[str, Seen]:
        optimizer = model.configure_optimizers()
        seen = Seen(_named(model))
        for x in batches:

            def evaluate(x: Tensor = x) -> float:
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
        self, model: Any, batches: Sequence[Tensor], scaler: GradScaler
    ) -> dict[str, Seen]:
        optimizer = model.configure_optimizers()
        seen = Seen(_named(model))
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


class TwoEpochs(Loop):
    """The backbone is frozen in the first epoch, and learns at 0.01 in the second."""

    def run(
        self, model: Any, batches: Sequence[Tensor], scaler: GradScaler
    ) -> dict[str, Seen]:
        model.backbone.requires_grad_(False)
        optimizer = model.configure_optimizers()
        seen = Seen(_named(model))
        for index, x in enumerate([*batches, *batches]):
            if index == len(batches):
                model.backbone.requires_grad_(True)
                group = {"params": list(model.backbone.parameters()), "lr": 0.01}
                optimizer.add_param_group(group)
            optimizer.zero_grad()
            model.loss(x).backward()
            self._update(optimizer, scaler, seen, index)
        return {"": seen}


class Adversaries(Loop):
    """A generator and a discriminator take turns on every batch."""

    def players(self, model: Any) -> list[tuple[Any, Any, Seen]]:
        optimizers = model.configure_optimizers()
        losses = (model.generator_loss, model.discriminator_loss)
        seen = [Seen(_named(model, optimizer)) for optimizer in optimizers]
        return list(zip(optimizers, losses, seen, strict=True))

    def run(
        self, model: Any, batches: Sequence[Tensor], scaler: GradScaler
    ) -> dict[str, Seen]:
        players = self.players(model)
        step = 0
        for x in batches:
            for optimizer, loss, seen in players:
                optimizer.zero_grad()
                loss(x).backward()
                self._update(optimizer, scaler, seen, step)
                step += 1
        return {f"optimizer_{i}": seen for i, (*_, seen) in enumerate(players)}


class AdversariesAtOnce(Adversaries):
    """Both learn from the same weights: losses and clips first, then the updates."""

    def run(
        self, model: Any, batches: Sequence[Tensor], scaler: GradScaler
    ) -> dict[str, Seen]:
        players = self.players(model)
        step = 0
        for x in batches:
            for optimizer, loss, seen in players:
                optimizer.zero_grad()
                loss(x).backward(inputs=list(seen.parameters.values()))
                seen.note_before(step)
                self.clip(held_with_gradient(optimizer))
                seen.note_after()
                step += 1
            for optimizer, *_ in players:
                optimizer.step()
        return {f"optimizer_{i}": seen for i, (*_, seen) in enumerate(players)}


def held_with_gradient(optimizer: Any) -> list[Tensor]:
    held = [p for group in optimizer.param_groups for p in group["params"]]
    return [parameter for parameter in held if parameter.grad is not None]


def _named(model: nn.Module, optimizer: Any = None) -> dict[str, Tensor]:
    """Name the parameters, those of one optimizer if there are several."""
    named: dict[str, Tensor] = {
        name.replace("_orig_mod.", ""): parameter  # what torch.compile puts in
        for name, parameter in model.named_parameters()
    }
    if optimizer is None:
        return named
    held = {p for group in optimizer.param_groups for p in group["params"]}
    return {name: p for name, p in named.items() if p in held}
