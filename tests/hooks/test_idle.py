"""Hooks with nothing to do in a fit: Lightning does not call them, and gets them back."""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.profilers import SimpleProfiler
from typing_extensions import override

from gradguard import ClipNorm, GradGuard
from gradguard.hooks.idle import BATCH_END, HOOKS
from tests.support.modules import ClipsAfterBackward, Manual, Net, lightning_clip

BATCH_START = "on_train_batch_start"


def fitted(path: Path, module: Net, *callbacks: Callback, **options: Any) -> set[str]:
    """Train; return the hooks of a step that Lightning called of a GradGuard."""
    profiler = SimpleProfiler()
    Trainer(
        accelerator="cpu",
        max_epochs=1,
        log_every_n_steps=4,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=TensorBoardLogger(path, name=None, version="run"),
        profiler=profiler,
        callbacks=list(callbacks),
        **options,
    ).fit(module)
    called = {
        action.rpartition(".")[2]
        for action in profiler.recorded_durations
        if "Guard" in action
    }
    return called & {*HOOKS, BATCH_START}


@pytest.mark.parametrize(
    ("make", "guard", "hooks"),
    [
        (Net, lambda: GradGuard(ClipNorm(1.0)), set()),
        (Net, GradGuard, {"on_before_optimizer_step"}),
        (
            Net,
            lambda: GradGuard(on_nonfinite="skip"),
            {"on_before_optimizer_step", BATCH_END},
        ),
        (
            Net,
            lambda: GradGuard(layer_statistics=True),
            {"on_before_optimizer_step", BATCH_END},
        ),
        (ClipsAfterBackward, GradGuard, {"on_after_backward"}),
        (lambda: Manual(lightning_clip), GradGuard, {"on_after_backward", BATCH_END}),
    ],
    ids=["clips", "observes", "skips", "statistics", "after_backward", "manual"],
)
def test_only_hooks_with_something_to_do_are_called(
    tmp_path: Path,
    make: Callable[[], Net],
    guard: Callable[[], GradGuard],
    hooks: set[str],
) -> None:
    assert fitted(tmp_path, make(), guard()) == {BATCH_START, *hooks}


class Counting(GradGuard):
    """A user's subclass, with a hook of its own."""

    backwards = 0

    @override
    def on_after_backward(self, *args: Any) -> None:
        super().on_after_backward(*args)
        self.backwards += 1


def test_hooks_of_a_subclass_are_called(tmp_path: Path) -> None:
    guard = Counting(ClipNorm(1.0))

    fitted(tmp_path, Net(), guard)

    assert guard.backwards == len(Net().batches())


def test_hook_put_into_the_class_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(GradGuard, "on_after_backward", lambda *_: calls.append(1))

    fitted(tmp_path, Net(), GradGuard())

    assert len(calls) == len(Net().batches())


class Timing(Callback):
    """Wraps the hooks of all callbacks, once training starts."""

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.calls: list[str] = []
        for callback in trainer.callbacks:  # type: ignore[attr-defined] # set by a connector
            for hook in HOOKS:
                vars(callback)[hook] = partial(
                    self.timed, getattr(callback, hook), hook
                )

    def timed(self, call: Callable[..., None], hook: str, *args: Any) -> None:
        self.calls.append(hook)
        call(*args)


def test_hooks_that_others_have_wrapped_are_called(tmp_path: Path) -> None:
    timing = Timing()

    fitted(tmp_path, Net(), GradGuard(), timing)

    assert {*timing.calls} == {*HOOKS}


class Copying(Callback):
    """Copies the first callback in the middle of a fit."""

    copied: GradGuard

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *_: Any
    ) -> None:
        self.copied = copy.deepcopy(trainer.callbacks[0])  # type: ignore[attr-defined] # set by a connector


def test_callback_has_all_hooks_after_the_fit_and_so_have_its_copies(
    tmp_path: Path,
) -> None:
    guard, copying = GradGuard(), Copying()

    fitted(tmp_path, Net(), guard, copying)

    for one in (guard, copying.copied):
        assert all(callable(getattr(one, hook)) for hook in HOOKS)
