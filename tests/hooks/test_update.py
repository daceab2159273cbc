"""The instant before the update, in every way an optimizer can be stepped."""

import pickle
from collections import defaultdict
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, StepLR

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


class Deaf(Optimizer):
    """Takes no notice of the closure it is given, and writes past torch's counters."""

    def __init__(self, parameters: list[Tensor]) -> None:
        super().__init__(parameters, {})

    def step(self, closure: Any = None) -> Any:
        for parameter in self.param_groups[0]["params"]:
            parameter.data.sub_(0.25 * parameter.grad)


def test_step_that_ignores_its_closure_is_seen_from_the_second_one_on() -> None:
    missed: list[int] = []
    bench = Bench(Deaf)
    Update(bench.look, lambda: missed.append(1)).attach(bench.optimizer)

    for _ in range(3):
        bench.closure()
        bench.optimizer.step(float)

    assert bench.seen == [(0.5, 1.0), (0.25, 0.5)]
    assert missed == [1]


class Proxy:
    """Has nothing of its own, not even a `step`."""

    def __init__(self, parameters: list[Tensor]) -> None:
        self.inner = sgd(parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def with_own_step(parameters: list[Tensor]) -> Optimizer:
    optimizer = sgd(parameters)
    optimizer.step = partial(Deaf.step, optimizer)  # type: ignore[method-assign, arg-type]
    return optimizer


@pytest.mark.parametrize("make", [Proxy, with_own_step])
def test_step_that_is_not_of_the_class_is_seen(make: Any) -> None:
    bench = Bench(make)
    Update(bench.look).attach(bench.optimizer)

    without_closure(bench)

    assert bench.seen == [(1.0, 2.0)]
    assert bench.w.item() == 0.5


class Unhooked:
    """None of torch's optimizers."""

    def __init__(self, parameters: list[Tensor]) -> None:
        self.param_groups = [{"params": parameters}]

    step = Deaf.step


@pytest.mark.parametrize(
    "copy", [deepcopy, lambda each: pickle.loads(pickle.dumps(each))]
)
def test_copy_of_an_optimizer_steps_for_itself(copy: Any) -> None:
    bench = Bench(Unhooked)  # type: ignore[arg-type] # is none
    without_closure(bench)
    Update(bench.look).attach(bench.optimizer)

    copied = copy(bench.optimizer)
    copied.param_groups[0]["params"][0].grad = torch.ones(())
    copied.step()

    assert bench.seen == []
    assert bench.w.item() == 0.5
    assert copied.param_groups[0]["params"][0].item() == 0.25


def scheduled(optimizer: Optimizer) -> LRScheduler:
    optimizer.defaults, optimizer.state = {}, defaultdict(dict)
    return StepLR(optimizer, 1)


def test_scheduler_made_before_finds_its_mark() -> None:
    bench = Bench(lambda parameters: Wrapper(sgd(parameters)))
    scheduler = scheduled(bench.optimizer)
    marked = bench.optimizer.step

    undo = Update(bench.look).attach(bench.optimizer)
    by_name(bench)
    scheduler.step()  # else it warns
    undo()

    assert bench.optimizer.step is marked


def test_scheduler_made_afterwards_keeps_its_mark() -> None:
    bench = Bench(lambda parameters: Wrapper(sgd(parameters)))
    undo = Update(bench.look).attach(bench.optimizer)

    scheduler = scheduled(bench.optimizer)
    by_name(bench)
    undo()
    by_name(bench)
    scheduler.step()

    assert bench.seen == [(1.0, 2.0)]
    assert bench.w.item() == 0.25


def test_step_that_raised_does_not_blind_the_next_batch() -> None:
    class Raising(SGD):
        def step(self, closure: Any = None) -> Any:
            closure()
            raise MemoryError

    bench = Bench(lambda parameters: Raising(parameters, lr=0.25))
    update = Update(bench.look)
    update.attach(bench.optimizer)
    for _ in range(2):
        with pytest.raises(MemoryError):
            by_name(bench)
        update.reset()

    assert bench.seen == [(1.0, 2.0)] * 2


def test_step_of_an_inner_optimizer_within_the_closure_is_seen() -> None:
    bench = Bench(sgd)
    inner, update = sgd([bench.w]), Update(bench.look)
    update.attach(bench.optimizer)
    update.attach(inner)

    def closure() -> float:
        bench.closure()
        inner.step()
        return bench.closure()

    bench.optimizer.step(closure)

    assert bench.seen == [(1.0, 2.0), (0.5, 1.0)]
