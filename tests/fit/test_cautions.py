"""What GradGuard warns of, and that it does so once."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import nn
from torch.amp.grad_scaler import GradScaler
from typing_extensions import override

from gradguard import ClipNorm, GradGuard
from tests.support.modules import (
    Frozen,
    HookClipsByTorch,
    Manual,
    ManualBeforeStep,
    Net,
    lightning_clip,
    sgd,
)
from tests.support.trainers import fit


class Unheld(Net):
    """Two layers, and more that no optimizer is given."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.spare = nn.ModuleList(nn.Linear(size, 1) for size in sizes)

    def configure_optimizers(self) -> Any:
        return sgd([*self.first.parameters(), *self.second.parameters()])


def own() -> GradGuard:
    return GradGuard(clip=ClipNorm(1.0))


def scaler() -> dict[str, Any]:
    return {"plugins": [MixedPrecision("16-mixed", "cpu", GradScaler("cpu", 1024.0))]}


SCALED = r"clip_gradients\(SGD\) clips gradients that are still multiplied .*18089"
TWICE = r"clip_gradients was called where GradGuard\(clip=ClipNorm\(.*clips as well"


@pytest.mark.parametrize(
    ("make", "guard", "options", "sentence"),
    [
        (
            partial(Unheld, 2),
            GradGuard,
            dict,
            "no optimizer holds spare.0.weight and spare.0.bias, so nothing trains",
        ),
        (
            partial(Unheld, 2, 3, 4),
            GradGuard,
            dict,
            "spare.0.weight, spare.0.bias, spare.1.weight and 3 more, so nothing",
        ),
        (partial(Manual, lightning_clip), GradGuard, scaler, SCALED),
        (partial(Manual, lightning_clip), own, dict, TWICE),
        (
            HookClipsByTorch,
            own,
            dict,
            r"clips after HookClipsByTorch.configure_gradient_clipping, so `before`",
        ),
    ],
    ids=["unheld", "many_unheld", "scaled", "called_twice", "hook_clips_too"],
)
def test_mistake_is_told_once_per_fit(
    tmp_path: Path,
    make: Callable[[], Any],
    guard: Callable[[], GradGuard],
    options: Callable[[], dict[str, Any]],
    sentence: str,
) -> None:
    with pytest.warns(UserWarning, match=sentence) as caught:
        fit(tmp_path, guard(), model=make(), **options())

    assert sum(bool(re.search(sentence, str(one.message))) for one in caught) == 1


@pytest.mark.parametrize(
    ("make", "guard", "options"),
    [
        (Frozen, GradGuard, dict),
        (HookClipsByTorch, GradGuard, dict),
        (partial(Manual, lightning_clip), GradGuard, dict),
        (partial(ManualBeforeStep, lightning_clip), GradGuard, scaler),
        (partial(Manual, lambda *_: None), own, scaler),
    ],
    ids=["frozen", "hook_clips", "manual", "unscaled_first", "own_scaled"],
)
def test_nothing_is_told_where_nothing_is_wrong(
    tmp_path: Path,
    make: Callable[[], Any],
    guard: Callable[[], GradGuard],
    options: Callable[[], dict[str, Any]],
) -> None:
    fit(tmp_path, guard(), model=make(), **options())  # a warning would be an error


class Delegating(Callback):
    """Calls a GradGuard that it keeps to itself."""

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        GradGuard().on_train_start(trainer, pl_module)


def test_callback_the_trainer_does_not_know_says_that_it_records_nothing(
    tmp_path: Path,
) -> None:
    with pytest.warns(
        UserWarning, match="not among the Trainer's, so it records nothing"
    ):
        fit(tmp_path, Delegating(), model=Net())
