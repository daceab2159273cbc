"""Updates past the Trainer's optimizers: seen where they can be, and said where not."""

import gc
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any
from weakref import ref

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, Adam, Optimizer

from gradguard import AutoClip, ClipNorm, GradGuard
from gradguard.tensorboard.reader import read_optimizers, read_run
from tests.support.trainers import Twenty, fit, same_weights, trainer

MAX_NORM = 0.05


class SAM(Optimizer):
    """Climbs, comes back, and steps by an optimizer of its own; `step` is not for use."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.05})
        self.base = SGD(self.param_groups, lr=0.05)
        self.param_groups = self.base.param_groups
        self.climbed: dict[Tensor, Tensor] = {}

    @torch.no_grad()
    def first_step(self) -> None:
        for parameter in held(self):
            assert parameter.grad is not None
            self.climbed[parameter] = 0.05 * parameter.grad
            parameter.add_(self.climbed[parameter])

    @torch.no_grad()
    def second_step(self) -> None:
        for parameter in held(self):
            parameter.sub_(self.climbed[parameter])
        self.base.step()

    def step(self, closure: Any = None) -> Any:
        raise NotImplementedError


def held(optimizer: Any) -> list[Tensor]:
    return [
        parameter
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.grad is not None
    ]


class Manual(Twenty):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def backward_of(self, batch: Any) -> None:
        self.zero_grad()
        self.manual_backward(self.loss(batch))


class Sharp(Manual):
    def configure_optimizers(self) -> Any:
        return SAM(self.parameters())

    def training_step(self, batch: Any, batch_idx: int) -> None:
        sam: Any = self.optimizers()
        self.backward_of(batch)
        sam.first_step()
        self.backward_of(batch)
        sam.second_step()


def sharp_loop(*, clip: bool) -> tuple[Sharp, list[float]]:
    model, totals = Sharp(), []
    sam = model.configure_optimizers()
    for batch in model.train_dataloader():
        for step in (sam.first_step, sam.second_step):
            model.zero_grad()
            model.loss(batch).backward()  # type: ignore[no-untyped-call]
            if step == sam.second_step:
                norms = [float(p.grad.double().norm()) for p in held(sam)]  # type: ignore[union-attr]
                totals.append(float(np.linalg.norm(norms)))
                if clip:
                    clip_grad_norm_(held(sam), MAX_NORM)
            step()
    return model, totals


def test_updates_of_an_inner_optimizer_are_recorded(tmp_path: Path) -> None:
    trainer(tmp_path, GradGuard()).fit(Sharp())

    _, totals = sharp_loop(clip=False)
    records = read_run(tmp_path / "run")
    np.testing.assert_allclose(records.total_before, totals, rtol=1e-5)


def test_updates_of_an_inner_optimizer_are_clipped(tmp_path: Path) -> None:
    trainer(tmp_path, GradGuard(ClipNorm(MAX_NORM))).fit(model := Sharp())

    expected, _ = sharp_loop(clip=True)
    assert same_weights(model, expected)


class Wrapper(Optimizer):
    """Runs its closure by itself and has two others share the parameters."""

    def __init__(self, first: list[Any], second: list[Any]) -> None:
        super().__init__([*first, *second], {"lr": 0.05})
        self.inner = [SGD(first, 0.05), Adam(second, 0.05)]

    def step(self, closure: Any = None) -> Any:
        loss = closure()
        for optimizer in self.inner:
            optimizer.step()
        return loss


@pytest.mark.filterwarnings("ignore:no optimizer holds unused")
def test_step_within_a_step_is_one_update(tmp_path: Path) -> None:
    model = Twenty()
    model.optimizer = lambda _: Wrapper(
        list(model.first.parameters()), list(model.second.parameters())
    )

    trainer(tmp_path, GradGuard(ClipNorm(MAX_NORM))).fit(model)

    records = read_run(tmp_path / "run")
    assert records.steps.tolist() == list(range(20))
    assert records.total_after.max() == pytest.approx(MAX_NORM, rel=1e-4)


class Ignoring(SGD):
    """Takes no notice of the closure it is given."""

    def step(self, closure: Any = None) -> Any:
        return super().step()


class ClosureFirst(Twenty):
    def configure_optimizers(self) -> Any:
        return Ignoring(self.parameters(), 0.05)

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        optimizer_closure()
        optimizer.step(lambda: None)


def test_step_that_ignores_its_closure_is_seen(tmp_path: Path) -> None:
    trainer(tmp_path, GradGuard(ClipNorm(MAX_NORM))).fit(ClosureFirst())

    records = read_run(tmp_path / "run")
    assert len(records.steps) == 20
    assert records.total_after.max() == pytest.approx(MAX_NORM, rel=1e-4)


class Unlisted(Manual):
    """Steps an optimizer that it never gave to the Trainer."""

    def __init__(self) -> None:
        super().__init__()
        self.own: Optimizer = SGD(self.parameters(), 0.05)

    def configure_optimizers(self) -> Any:
        return None

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.backward_of(batch)
        self.own.step()


@pytest.mark.filterwarnings("ignore:.*configure_optimizers. returned .None.")
@pytest.mark.filterwarnings("ignore:no optimizer holds")
def test_optimizer_the_trainer_does_not_know_is_watched(tmp_path: Path) -> None:
    trainer(tmp_path, GradGuard(ClipNorm(MAX_NORM))).fit(Unlisted())

    records = read_run(tmp_path / "run")
    assert records.steps.tolist() == list(range(20))
    assert records.total_after.max() == pytest.approx(MAX_NORM, rel=1e-4)


class Beside(Unlisted):
    """Has an optimizer of its own for some, and gives one of the rest to the Trainer."""

    def __init__(self) -> None:
        super().__init__()
        self.own = Adam(self.second.parameters(), 0.05)

    def configure_optimizers(self) -> Any:
        return SGD(self.first.parameters(), 0.05)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        super().training_step(batch, batch_idx)
        self.optimizers().step()  # type: ignore[union-attr]


@pytest.mark.filterwarnings("ignore:no optimizer holds")
def test_optimizer_beside_the_trainers_has_records_of_its_own(tmp_path: Path) -> None:
    trainer(tmp_path, GradGuard()).fit(Beside())

    runs = read_optimizers(tmp_path / "run")
    assert {name: len(run.steps) for name, run in runs.items()} == {
        "": 20,
        "Adam_0": 20,
    }


class InBackward(Twenty):
    """An optimizer for each parameter, stepped as soon as its gradient is there."""

    def __init__(self) -> None:
        super().__init__()
        for parameter in self.second.parameters():
            step = partial(self.step, SGD([parameter], 0.05))
            parameter.register_post_accumulate_grad_hook(step)  # type: ignore[no-untyped-call]

    @staticmethod
    def step(own: Optimizer, parameter: Tensor) -> None:
        own.step()
        parameter.grad = None

    def configure_optimizers(self) -> Any:
        return SGD(self.parameters(), 0.0)


class ByHand(Manual):
    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.backward_of(batch)
        with torch.no_grad():
            for parameter in held(self.optimizers()):
                parameter.sub_(0.05 * parameter.grad)  # type: ignore[operator] # has one


@pytest.mark.parametrize(
    ("guard", "lacks"),
    [
        (lambda: GradGuard(ClipNorm(1.0)), r"clip=ClipNorm\(.*has no effect"),
        (
            lambda: GradGuard(on_nonfinite="skip"),
            r"on_nonfinite='skip' has no effect",
        ),
        (GradGuard, "is not recorded"),
    ],
)
@pytest.mark.parametrize(
    ("module", "said"),
    [
        (
            InBackward,
            "SGD updates second.bias and second.weight inside the backward pass",
        ),
        (ByHand, "seen no update of SGD with a gradient, though its parameters change"),
    ],
)
@pytest.mark.filterwarnings("ignore:GradGuard has seen no update")
@pytest.mark.filterwarnings("ignore:SGD updates .* inside the backward pass")
def test_update_that_cannot_be_seen_is_said(
    tmp_path: Path, guard: Any, lacks: str, module: Any, said: str
) -> None:
    with pytest.warns(UserWarning, match=f"{said}.*{lacks}"):
        trainer(tmp_path, guard()).fit(module())


def test_update_that_cannot_be_seen_is_said_within_the_first_batches(
    tmp_path: Path,
) -> None:
    class Stops(ByHand):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            if batch_idx == 4:
                raise RuntimeError("enough")

    with (
        pytest.raises(RuntimeError, match="enough"),
        pytest.warns(UserWarning, match="has seen no update of SGD"),
    ):
        trainer(tmp_path, GradGuard(ClipNorm(1.0))).fit(Stops())


class Idle(Manual):
    """Has an optimizer that is never stepped, and one that is."""

    def configure_optimizers(self) -> Any:
        return SGD(self.first.parameters(), 0.1), SGD(self.second.parameters(), 0.1)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.backward_of(batch)
        self.optimizers()[0].step()  # type: ignore[index]


@pytest.mark.filterwarnings("ignore:no optimizer holds unused")
def test_optimizer_that_has_nothing_to_do_is_not_complained_about(
    tmp_path: Path,
) -> None:
    trainer(tmp_path, GradGuard(ClipNorm(1.0))).fit(Idle())


def test_optimizer_of_another_model_is_none_of_our_business(tmp_path: Path) -> None:
    other = torch.nn.Linear(2, 1)
    theirs = SGD(other.parameters(), 0.1)

    class Both(Twenty):
        def on_train_batch_end(self, *_: Any) -> None:
            theirs.zero_grad()
            other(torch.ones(2)).sum().backward()
            theirs.step()

    fit(tmp_path, GradGuard(ClipNorm(MAX_NORM)), model=Both())

    assert list(read_optimizers(tmp_path / "run")) == [""]
    assert other.weight.grad is not None
    assert other.weight.grad.norm() == pytest.approx(2**0.5)


class PastTheCounters(ByHand):
    """Writes to its weights by `.data`, which torch does not count."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.backward_of(batch)
        for parameter in held(self.optimizers()):
            parameter.data.sub_(0.05 * parameter.grad)  # type: ignore[operator] # has one


def test_update_past_the_counters_of_torch_is_said(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"no update of SGD.*clip=.*has no effect"):
        trainer(tmp_path, GradGuard(ClipNorm(1.0))).fit(PastTheCounters())


class WithoutOptimizer(Unlisted):
    """Trains its parameters by hand; a copy of one layer follows."""

    def __init__(self) -> None:
        super().__init__()
        self.target = deepcopy(self.second)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.backward_of(batch)
        for parameter in held(self.own):
            parameter.data.sub_(0.05 * parameter.grad)  # type: ignore[operator] # has one
        self.target.load_state_dict(self.second.state_dict())


@pytest.mark.filterwarnings("ignore:.*configure_optimizers. returned .None.")
@pytest.mark.filterwarnings("ignore:no optimizer holds")
def test_update_of_parameters_without_an_optimizer_is_said(tmp_path: Path) -> None:
    names = "first.weight, second.weight and second.bias"

    with pytest.warns(
        UserWarning, match=rf"no update of {names}, which.*clip=.*no effect"
    ):
        trainer(tmp_path, GradGuard(ClipNorm(1.0))).fit(WithoutOptimizer())


class Sharing(Manual):
    """Two optimizers hold one layer; the second one has not stepped yet."""

    def configure_optimizers(self) -> Any:
        return SGD(self.parameters(), 0.1), SGD(self.second.parameters(), 0.1)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.backward_of(batch)
        self.optimizers()[0].step()  # type: ignore[index]


def test_optimizer_whose_parameters_another_one_moves_is_not_complained_about(
    tmp_path: Path,
) -> None:
    trainer(tmp_path, GradGuard(ClipNorm(1.0))).fit(Sharing())


def test_optimizers_made_anew_are_freed(tmp_path: Path) -> None:
    made: list[ref[Optimizer]] = []

    class Anew(Twenty):
        def on_train_epoch_start(self) -> None:
            optimizer = Adam(self.parameters(), 0.01)
            self.trainer.optimizers = [optimizer]
            made.append(ref(optimizer))

    lightning = trainer(tmp_path, GradGuard(), max_epochs=4)
    lightning.fit(Anew())

    gc.collect()
    assert [each() for each in made] == [None, None, None, lightning.optimizers[0]]


@pytest.mark.filterwarnings("ignore:no optimizer holds")
def test_what_is_learned_of_an_unlisted_optimizer_survives_a_checkpoint(
    tmp_path: Path,
) -> None:
    whole, half, rest = Beside(), Beside(), Beside()
    trainer(tmp_path / "0", GradGuard(AutoClip(50)), max_epochs=2).fit(whole)
    first = trainer(tmp_path / "1", GradGuard(AutoClip(50)))
    first.fit(half)
    first.save_checkpoint(tmp_path / "half.ckpt")

    guard = GradGuard(AutoClip(50))
    rest.own.load_state_dict(half.own.state_dict())  # Lightning does not know it
    trainer(tmp_path / "2", guard, max_epochs=2).fit(
        rest, ckpt_path=tmp_path / "half.ckpt"
    )

    assert same_weights(rest, whole)
