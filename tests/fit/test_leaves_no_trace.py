"""At home in other people's code: what they do to callbacks, and how fits can end."""

import copy
import gc
import itertools
import pickle
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from weakref import ref

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.tuner.tuning import Tuner
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader

from gradguard import AdaGC, ClipNorm, GradGuard
from gradguard.tensorboard.reader import read_run
from tests.support.event_files import events
from tests.support.modules import (
    NUM_BATCHES,
    Manual,
    Net,
    Wrapping,
    lightning_clip,
    no_clip,
)
from tests.support.oracle import MAX_NORM
from tests.support.trainers import fit, same_weights, trainer


def failing(model: Net, exception: BaseException, batch_idx: int = 3) -> Net:
    """Raise in the middle of a batch."""
    compute, batch = model.loss, itertools.count()

    def loss(x: Tensor) -> Tensor:
        if next(batch) == batch_idx:
            raise exception
        return compute(x)

    vars(model)["loss"] = loss
    return model


class Evaluated(Net):
    """Has all the loops of Lightning."""

    def validation_step(self, batch: Tensor, _: int) -> Any:
        return self.loss(batch)

    test_step = predict_step = validation_step


class Tuned(Net):
    """Has the knobs that the tuner turns."""

    lr = 0.05
    batch_size = 2

    def train_dataloader(self) -> DataLoader[Any]:
        rows: Any = torch.cat(self.batches())
        return DataLoader(rows, self.batch_size)

    def configure_optimizers(self) -> Any:
        return SGD(self.parameters(), self.lr)


def traces(runner: Any, model: Net) -> list[object]:
    """Everything of ours that could be left on what belongs to others."""
    found: list[object] = []
    for optimizer in runner.optimizers:
        hooks = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
        found += [h for name in hooks for h in vars(optimizer).get(name, {}).values()]
        found += [vars(optimizer)["step"]] if "step" in vars(optimizer) else []
    for parameter in model.parameters():
        found += (parameter._post_accumulate_grad_hooks or {}).values()
    found += [name for name in vars(runner.precision_plugin) if "clip" in name]
    guards = [one for one in runner.callbacks if isinstance(one, GradGuard)]
    return found + [guard._watch for guard in guards if guard._watch]


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Lightning ignores Ctrl-C for the rest of the process, once it had one."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


End = Callable[[Path, Net], Trainer]


def fitted(path: Path, model: Net, *callbacks: Callback, **options: Any) -> Trainer:
    runner = trainer(path, GradGuard(), *callbacks, **options)
    runner.fit(model)
    return runner


def fitted_twice(path: Path, model: Net) -> Trainer:
    runner = fitted(path, model)
    runner.fit_loop.max_epochs = 2
    runner.fit(model)
    return runner


def failed(path: Path, model: Net) -> Trainer:
    runner = trainer(path, GradGuard())
    with pytest.raises(ValueError, match="no more"):
        runner.fit(failing(model, ValueError("no more")))
    return runner


def interrupted(path: Path, model: Net) -> Trainer:
    runner = trainer(path, GradGuard())
    with pytest.raises(SystemExit):
        runner.fit(failing(model, KeyboardInterrupt()))
    return runner


ends = pytest.mark.parametrize(
    ("run", "steps"),
    [
        (fitted, NUM_BATCHES),
        (fitted_twice, 2 * NUM_BATCHES),
        (partial(fitted, max_steps=2), 2),
        (failed, 3),
        (interrupted, 3),
    ],
    ids=["fit", "fit_twice", "max_steps", "exception", "ctrl_c"],
)
modules = pytest.mark.parametrize(
    "make",
    [Net, partial(Net, Wrapping), partial(Manual, lightning_clip)],
    ids=["automatic", "wrapping", "manual"],
)


@pytest.mark.usefixtures("interruptible")
@ends
@modules
def test_every_end_of_a_fit_leaves_all_records(
    tmp_path: Path, run: End, steps: int, make: Callable[[], Net]
) -> None:
    run(tmp_path, make())

    assert read_run(tmp_path / "run").steps.tolist() == list(range(steps))


@pytest.mark.usefixtures("interruptible")
@ends
@modules
def test_no_end_of_a_fit_leaves_a_hook(
    tmp_path: Path,
    run: End,
    steps: int,  # noqa: ARG001 (of the other test)
    make: Callable[[], Net],
) -> None:
    model = make()

    runner = run(tmp_path, model)

    assert not traces(runner, model)


def test_method_that_a_user_gave_the_plugin_is_still_there(tmp_path: Path) -> None:
    calls: list[Any] = []
    runner = trainer(tmp_path, GradGuard())
    vars(runner.precision_plugin)["clip_gradients"] = own = lambda *_: calls.append(1)

    runner.fit(Manual(lightning_clip))

    assert vars(runner.precision_plugin)["clip_gradients"] is own
    assert len(calls) == NUM_BATCHES


def test_traces_are_found_in_mid_fit(tmp_path: Path) -> None:
    class Look(Callback):
        def on_train_batch_end(self, runner: Any, module: Any, *_: Any) -> None:
            counts.append(len(traces(runner, module)))

    counts: list[int] = []
    fitted(tmp_path, Manual(lightning_clip), Look(), max_steps=1)

    # Two step hooks, the clip call and the watch; the raw hooks are gone by then.
    assert counts == [4]


@pytest.mark.parametrize("loop", ["validate", "test", "predict"])
def test_loop_that_does_not_train_writes_nothing(tmp_path: Path, loop: str) -> None:
    model = Evaluated()
    runner = trainer(tmp_path, GradGuard(clip=ClipNorm(1.0)))

    getattr(runner, loop)(model, model.train_dataloader())

    assert not traces(runner, model)
    with pytest.raises(ValueError, match="no records of gradguard"):
        read_run(tmp_path / "run")


def test_one_instance_serves_fits_and_every_other_loop(tmp_path: Path) -> None:
    guard = GradGuard()
    for name in ("one", "two"):
        model = Evaluated()
        runner = trainer(tmp_path / name, guard)
        runner.validate(model, model.train_dataloader(), verbose=False)
        runner.fit(model, val_dataloaders=model.train_dataloader())
        runner.predict(model, model.train_dataloader())

    one, two = (read_run(tmp_path / name / "run") for name in ("one", "two"))
    np.testing.assert_array_equal(one.before, two.before)


def test_callback_copied_before_a_fit_is_pickled_after_it(tmp_path: Path) -> None:
    guard = copy.deepcopy(GradGuard(clip=ClipNorm(MAX_NORM)))
    model = Net()
    trainer(tmp_path / "one", guard).fit(model)

    again = pickle.loads(pickle.dumps(guard))
    trainer(tmp_path / "two", again).fit(model)

    assert read_run(tmp_path / "two/run").steps.tolist() == list(range(NUM_BATCHES))


def test_fast_dev_run_leaves_nothing_behind(tmp_path: Path) -> None:
    model = Net()

    runner = fitted(tmp_path, model, fast_dev_run=2)

    assert not traces(runner, model)
    assert not list(tmp_path.rglob("*tfevents*"))


@pytest.mark.parametrize(
    "tune",
    [
        lambda tuner, model: tuner.lr_find(model, num_training=3),
        lambda tuner, model: tuner.scale_batch_size(model, max_trials=2),
    ],
    ids=["lr_find", "scale_batch_size"],
)
def test_fit_after_the_tuner_is_recorded_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tune: Callable[[Tuner, Net], Any]
) -> None:
    monkeypatch.chdir(tmp_path)  # the tuner keeps a checkpoint there
    model = Tuned()
    options = {"max_epochs": 5, "max_steps": 5, "log_every_n_steps": 4}
    runner = trainer(tmp_path, GradGuard(), **options)

    tune(Tuner(runner), model)
    runner.fit(model)

    assert not traces(runner, model)
    assert read_run(tmp_path / "run").steps.tolist() == list(range(5))


def test_clipping_works_where_nothing_is_logged(tmp_path: Path) -> None:
    clipper = GradGuard(clip=ClipNorm(MAX_NORM))
    ours = fit(tmp_path, clipper, model=Net(), logger=False)
    theirs = fit(tmp_path, model=Net(), gradient_clip_val=MAX_NORM, logger=False)

    assert same_weights(ours, theirs)


def test_module_copied_in_mid_fit_is_free_of_the_original(tmp_path: Path) -> None:
    class Copy(Callback):
        def on_train_batch_end(self, _: Any, module: Any, *__: Any) -> None:
            copies.append(copy.deepcopy(module))

    copies: list[Any] = []
    fitted(tmp_path / "one", Manual(no_clip), Copy())
    before = read_run(tmp_path / "one/run").steps.tolist()

    fitted(tmp_path / "two", copies[0])

    assert read_run(tmp_path / "one/run").steps.tolist() == before
    assert read_run(tmp_path / "two/run").steps.tolist() == list(range(NUM_BATCHES))


class Named(Net):
    """Parameters called as people call them."""

    NAMES = ("a b", "a/b", "/a", "a\\b", "100%", "<b>", "\u00e9t\u00e9", "\u5c64")

    def __init__(self) -> None:
        super().__init__()
        for name in self.NAMES:
            self.add_module(name, nn.Linear(4, 1, bias=False))

    def output(self, x: Tensor) -> Tensor:
        own = [self.get_submodule(name)(x) for name in self.NAMES]
        return super().output(x) + torch.stack(own).sum(0)


def test_any_name_survives_the_way_to_disk_and_back(tmp_path: Path) -> None:
    model = Named()

    fitted(tmp_path, model)

    names = tuple(name for name, _ in model.named_parameters())
    assert read_run(tmp_path / "run").names == names
    for moment in ("before", "after"):
        tags = {f"gradients/{name}" for name in names}
        assert tags == set(events(tmp_path / "run" / moment).Tags()["scalars"])


def test_resumed_run_continues_the_records(tmp_path: Path) -> None:
    fitted(tmp_path / "whole", Net(), max_epochs=2)
    fitted(tmp_path, Net()).save_checkpoint(tmp_path / "end.ckpt")
    runner = trainer(tmp_path, GradGuard(), max_epochs=2)
    runner.fit(Net(), ckpt_path=tmp_path / "end.ckpt", weights_only=False)

    resumed, expected = (read_run(tmp_path / run) for run in ("run", "whole/run"))
    assert resumed.steps.tolist() == list(range(2 * NUM_BATCHES))
    np.testing.assert_array_equal(resumed.before, expected.before)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended")
@pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path.")
def test_steps_run_again_after_a_crash_are_recorded_once(tmp_path: Path) -> None:
    save = ModelCheckpoint(tmp_path / "saved", every_n_train_steps=3)
    model = failing(Net(), ValueError("crash"), batch_idx=5)
    with pytest.raises(ValueError, match="crash"):
        fitted(tmp_path, model, save, enable_checkpointing=True)
    crashed = read_run(tmp_path / "run").steps.tolist()

    runner = trainer(tmp_path, GradGuard())
    (checkpoint,) = (tmp_path / "saved").iterdir()
    runner.fit(Net(), ckpt_path=checkpoint, weights_only=False)

    assert crashed == list(range(5))
    assert read_run(tmp_path / "run").steps.tolist() == list(range(NUM_BATCHES))


@pytest.mark.parametrize(
    "guard",
    [
        GradGuard,
        partial(GradGuard, AdaGC(), on_nonfinite="skip", layer_statistics=True),
    ],
    ids=["observes", "clips"],
)
def test_callback_that_is_kept_keeps_no_model_alive(
    tmp_path: Path, guard: Callable[[], GradGuard]
) -> None:
    kept = guard()
    runner, model = trainer(tmp_path, kept), Net()
    runner.fit(model)
    held = ref(model), ref(runner), ref(model.first.weight), ref(runner.optimizers[0])

    del model, runner
    gc.collect()

    assert kept._learned
    assert [each() for each in held] == [None] * len(held)
