"""The table of moments: documented as it is, and each row decided by what it names."""

from collections.abc import Callable
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer

from gradguard import GradGuard
from gradguard.hooks.moment import (
    AFTER_BACKWARD,
    BACKWARD_END,
    BEFORE_OPTIMIZER_STEP,
    MOMENTS,
    TABLE,
    UPDATE,
    Mode,
    Moment,
    moment_of,
)
from tests.support.documents import MODES


def test_documented_moments_are_those_of_the_code() -> None:
    rows = "".join(f"| {moment.name} | {moment.where} |\n" for moment in MOMENTS)

    assert rows in MODES.read_text()


def test_documented_table_is_that_of_the_code() -> None:
    rows = "".join(f"| {row.mode} | {row.moment.name} |\n" for row in TABLE)

    assert rows in MODES.read_text()


class Clips(Callback):
    def on_before_optimizer_step(self, *_: Any) -> None: ...


class ClipsEarly(Callback):
    def on_after_backward(self, *_: Any) -> None: ...


class Manual(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


class Steps(LightningModule):
    def optimizer_step(self, *_: Any, **__: Any) -> None: ...


class Passes(LightningModule):
    def backward(self, loss: Any) -> None: ...


class Touches(LightningModule):
    def on_after_backward(self) -> None: ...


@pytest.mark.parametrize(
    ("module", "ahead", "behind", "clips", "moment"),
    [
        (LightningModule, [], [], False, BEFORE_OPTIMIZER_STEP),
        (LightningModule, [], [], True, UPDATE),
        (Manual, [], [], True, UPDATE),
        (LightningModule, [ClipsEarly], [], False, BACKWARD_END),
        (Manual, [ClipsEarly], [], False, BACKWARD_END),
        (Manual, [], [], False, AFTER_BACKWARD),
        (Passes, [], [], False, BACKWARD_END),
        (Steps, [], [], False, AFTER_BACKWARD),
        (Touches, [], [], False, AFTER_BACKWARD),
        (LightningModule, [], [ClipsEarly], False, AFTER_BACKWARD),
        (LightningModule, [Clips], [], False, AFTER_BACKWARD),
        (LightningModule, [], [Clips], False, BEFORE_OPTIMIZER_STEP),
    ],
)
def test_moment_follows_from_what_may_touch_gradients(
    module: Callable[[], LightningModule],
    ahead: list[type[Callback]],
    behind: list[type[Callback]],
    clips: bool,
    moment: Moment,
) -> None:
    guard = GradGuard()
    callbacks = [*(make() for make in ahead), guard, *(make() for make in behind)]
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=callbacks
    )

    assert moment_of(Mode(trainer, module(), guard, clips)) == moment
