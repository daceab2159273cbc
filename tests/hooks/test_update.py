"""The instant before the update, in every way an optimizer can be stepped."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from gradguard.hooks.update import Update


class Twice(SGD):
    """Its step() calls the step() it inherits, so torch fires its hooks twice."""

    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


class Wrapper(Optimizer):
    """Never calls Optimizer.__init__, as wrappers such as Lookahead do."""

    def __init__(self, inner: Optimizer) -> None:
        self.inner = inner
        self.param_groups = inner.param_groups

    def step(self, closure: Any = None) -> Any:
        return self.inner.step(closure)


class Bench:
    """One parameter w, the loss w**2, and a log of (w, gradient) at each update."""

    def __init__(self, make: Callable[[list[Tensor]], Optimizer]) -> None:
        self.w = nn.Parameter(torch.tensor(1.0))
        self.optimizer = make([self.w])
        self.seen: list[tuple[float, float]] = []
        self.evaluations = 0

    def look(self, _: object) -> None:
        assert self.w.grad is not None
        self.seen.append((self.w.item(), self.w.grad.item()))

    def closure(self) -> float:
        self.evaluations += 1
        self.w.grad = None
        loss = self.w.square()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()


def sgd(parameters: list[Tensor]) -> Optimizer:
    return SGD(parameters, lr=0.25)  # halves w each step: w - 0.25 * 2w


def positional(bench: Bench) -> None:
    bench.optimizer.step(bench.closure)


def by_name(bench: Bench) -> None:
    bench.optimizer.step(closure=bench.closure)


def without_closure(bench: Bench) -> None:
    bench.closure()
    bench.optimizer.step()


ways = pytest.mark.parametrize("step", [positional, by_name, without_closure])


@ways
@pytest.mark.parametrize(
    "make",
    [sgd, lambda p: Twice(p, lr=0.25), lambda p: Wrapper(sgd(p))],
    ids=["hooked", "hooked_twice", "never_hooked"],
)
def test_update_is_seen_once_with_its_own_gradient(
    make: Callable[[list[Tensor]], Optimizer], step: Callable[[Bench], None]
) -> None:
    bench = Bench(make)
    Update(bench.look).attach(bench.optimizer)

    step(bench)
    step(bench)

    assert bench.seen == [(1.0, 2.0), (0.5, 1.0)]


@ways
@pytest.mark.parametrize("make", [sgd, lambda p: Wrapper(sgd(p))])
def test_nothing_is_seen_once_undone(
    make: Callable[[list[Tensor]], Optimizer], step: Callable[[Bench], None]
) -> None:
    bench = Bench(make)
    undo = Update(bench.look).attach(bench.optimizer)
    step(bench)

    undo()
    step(bench)

    assert len(bench.seen) == 1
    assert "step" not in vars(bench.optimizer)


def test_step_returns_what_the_closure_returns() -> None:
    bench = Bench(sgd)
    Update(bench.look).attach(bench.optimizer)

    assert bench.optimizer.step(bench.closure) == 1.0


def test_loss_is_handed_on_where_there_is_a_closure() -> None:
    losses: list[Any] = []
    bench = Bench(sgd)
    Update(losses.append).attach(bench.optimizer)

    bench.optimizer.step(bench.closure)
    bench.optimizer.step()

    assert losses == [1.0, None]


def test_every_evaluation_of_lbfgs_is_seen() -> None:
    bench = Bench(lambda p: torch.optim.LBFGS(p, max_iter=3, lr=0.1))
    Update(bench.look).attach(bench.optimizer)

    bench.optimizer.step(bench.closure)

    assert len(bench.seen) == bench.evaluations > 1


def test_a_closure_that_raises_does_not_blind_the_next_step() -> None:
    bench = Bench(sgd)
    Update(bench.look).attach(bench.optimizer)

    def fail() -> float:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        bench.optimizer.step(fail)
    bench.optimizer.step(bench.closure)

    assert bench.seen == [(1.0, 2.0)]


def test_what_is_done_at_the_update_decides_it() -> None:
    bench = Bench(lambda p: AdamW(p, lr=0.1))

    def drop(_: object) -> None:
        bench.w.grad = None

    Update(drop).attach(bench.optimizer)
    bench.optimizer.step(bench.closure)

    assert bench.w.item() == 1.0
