"""Ruined weights on their way to disk, where good ones are."""

import pickle
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import (
    Checkpoint,
    ModelCheckpoint,
    OnExceptionCheckpoint,
    WeightAveraging,
)
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import AsyncCheckpointIO, TorchCheckpointIO
from torch import Tensor, nn
from typing_extensions import override

from gradguard import GradGuard
from tests.support.trainers import QUIET, Twenty, trainer

# The batch after which weights are ruined, and those after which they are saved.
RUIN, EVERY = 9, 3
GOOD, BAD = (3, 6, 9), (12, 15, 18)

NAMES = ["epoch=0-step=3.ckpt", "epoch=0-step=6.ckpt", "epoch=0-step=9.ckpt"]


def quiet(test: Any) -> Any:
    """Nothing is said of what the test is not about."""
    for text in (r"step \d+", "GradGuard kept back", "update skipped"):
        test = pytest.mark.filterwarnings(f"ignore:{text}:UserWarning")(test)
    return test


class Ruin(Callback):
    """Does to the weights what a step of a learning rate that is too high would do."""

    def __init__(
        self, name: str = "first.weight", value: float = torch.nan, last: int = 99
    ) -> None:
        self.name, self.value, self.last = name, value, last

    @override
    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        tensor = module.state_dict()[self.name].view(-1)
        if batch_idx == RUIN:
            self.good = tensor[0].item()
            tensor[0] = self.value
        if batch_idx == self.last:
            tensor[0] = self.good


class Buffered(Twenty):
    """Has running means, and a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("mask", torch.zeros(2))
        self.table = nn.Parameter(torch.full((2,), -torch.inf), requires_grad=False)

    @override
    def output(self, x: Tensor) -> Tensor:
        return super().output(self.norm(x))


def guarding(**options: Any) -> GradGuard:
    options = {"on_nonfinite": "skip", "max_consecutive_skips": 50, **options}
    return GradGuard(**options)


def fitted(
    path: Path, *callbacks: Callback, model: Any = None, **options: Any
) -> Trainer:
    runner = trainer(path, *callbacks, enable_checkpointing=True, **options)
    runner.fit(model or Twenty())
    return runner


def saving(path: Path, **options: Any) -> ModelCheckpoint:
    options = {"every_n_train_steps": EVERY, **options}
    return ModelCheckpoint(path / "saved", **options)


def weights_in(file: Path) -> dict[str, Tensor]:
    loaded: dict[str, Any] = torch.load(file, weights_only=False)
    state: dict[str, Tensor] = loaded["state_dict"]
    return state


def is_good(file: Path) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in weights_in(file).values())


def files(path: Path) -> list[str]:
    return sorted(file.name for file in (path / "saved").iterdir())


@quiet
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_newest_good_checkpoint_stays_where_later_ones_are_ruined(
    tmp_path: Path, value: float
) -> None:
    save = saving(tmp_path)

    fitted(tmp_path, guarding(), Ruin(value=value), save)

    assert files(tmp_path) == ["checkpoint.ruined", NAMES[-1]]
    assert is_good(tmp_path / "saved" / NAMES[-1])
    assert save.best_model_path == str(tmp_path / "saved" / NAMES[-1])


@quiet
def test_ruined_state_is_kept_beside_for_a_look(tmp_path: Path) -> None:
    fitted(tmp_path, guarding(), Ruin(), saving(tmp_path))

    ruined = torch.load(tmp_path / "saved/checkpoint.ruined", weights_only=False)
    assert ruined["global_step"] == BAD[-1]
    assert ruined["state_dict"]["first.weight"][0, 0].isnan()


@quiet
@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"save_top_k": -1}, NAMES),
        ({"save_last": True}, [NAMES[-1], "last.ckpt"]),
        ({"save_last": "link"}, [NAMES[-1], "last.ckpt"]),
        ({"save_top_k": 0, "save_last": True}, ["last.ckpt"]),
        ({"save_top_k": 2, "monitor": "batch", "mode": "max"}, NAMES[1:]),
        ({"save_top_k": 2, "monitor": "batch", "mode": "min"}, NAMES[:2]),
        ({"filename": "one", "enable_version_counter": False}, ["one.ckpt"]),
        ({"save_weights_only": True}, NAMES[-1:]),
        (
            {"every_n_train_steps": None, "train_time_interval": timedelta(0)},
            ["epoch=0-step=9.ckpt"],
        ),
    ],
    ids=lambda value: "-".join(map(str, value)),
)
def test_every_way_to_save_keeps_its_good_files(
    tmp_path: Path, options: dict[str, Any], kept: list[str]
) -> None:
    class Told(Twenty):
        @override
        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            self.log("batch", float(batch_idx))
            return super().training_step(batch, batch_idx)

    fitted(tmp_path, guarding(), Ruin(), saving(tmp_path, **options), model=Told())

    found = [name for name in files(tmp_path) if name != "checkpoint.ruined"]
    assert found == kept
    assert all(is_good(tmp_path / "saved" / name) for name in found)


@quiet
def test_scores_stay_those_of_the_files_that_are_there(tmp_path: Path) -> None:
    class Falling(Twenty):
        @override
        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            self.log("falling", -float(batch_idx))
            return super().training_step(batch, batch_idx)

    save = saving(tmp_path, save_top_k=2, monitor="falling")

    fitted(tmp_path, guarding(), Ruin(), save, model=Falling())

    best = {str(tmp_path / "saved" / NAMES[i]): -(GOOD[i] - 1.0) for i in (1, 2)}
    assert {path: score.item() for path, score in save.best_k_models.items()} == best
    assert save.best_model_path == str(tmp_path / "saved" / NAMES[2])
    assert save.best_model_score == -8.0
    assert save.kth_best_model_path == str(tmp_path / "saved" / NAMES[1])


@quiet
def test_checkpoint_of_an_epoch_is_kept_by_the_default_callback(tmp_path: Path) -> None:
    runner = fitted(tmp_path, guarding(), RuinInTheSecondEpoch(), max_epochs=3)

    (kept,) = (tmp_path / "run/checkpoints").glob("*.ckpt")
    assert kept.name == "epoch=0-step=20.ckpt"
    assert is_good(kept)
    assert runner.checkpoint_callback
    assert getattr(runner.checkpoint_callback, "best_model_path") == str(kept)  # noqa: B009


class Validated(Twenty):
    """Is judged by a metric that only validation gives."""

    @override
    def validation_step(self, batch: Tensor, _: int) -> None:
        self.log("judged", self.loss(batch))

    @override
    def val_dataloader(self) -> Any:
        return self.train_dataloader()


@quiet
@pytest.mark.parametrize(
    "options",
    [{}, {"every_n_train_steps": 20, "save_on_train_epoch_end": False}],
    ids=["by epoch", "deferred"],
)
def test_best_by_validation_stays_the_best(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    options = {"monitor": "judged", "save_top_k": 2, **options}
    save = ModelCheckpoint(tmp_path / "saved", **options)
    callbacks = [guarding(), RuinInTheSecondEpoch(), save]

    fitted(tmp_path, *callbacks, model=Validated(), max_epochs=3)

    assert files(tmp_path) == ["checkpoint.ruined", "epoch=0-step=20.ckpt"]
    assert save.best_model_path == str(tmp_path / "saved/epoch=0-step=20.ckpt")
    assert save.best_model_score is not None
    assert save.best_model_score.isfinite()


@quiet
def test_other_namespace_of_lightning_is_guarded_too(tmp_path: Path) -> None:
    class Net(pytorch_lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 1)

        def training_step(self, batch: Tensor, _: int) -> Any:
            return self.first(batch).square().mean()

        def train_dataloader(self) -> Any:
            return Twenty().train_dataloader()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.01)

    save = pytorch_lightning.callbacks.ModelCheckpoint(
        tmp_path / "saved", every_n_train_steps=EVERY
    )
    options = QUIET | {"enable_checkpointing": True, "log_every_n_steps": 5}
    options["logger"] = CSVLogger(tmp_path)
    callbacks: Any = [guarding(), Ruin(), save]
    pytorch_lightning.Trainer(max_epochs=1, callbacks=callbacks, **options).fit(Net())

    assert files(tmp_path) == ["checkpoint.ruined", NAMES[-1]]


@quiet
def test_weights_that_are_well_again_are_saved_again(tmp_path: Path) -> None:
    save = saving(tmp_path)

    fitted(tmp_path, guarding(), Ruin(last=13), save)

    assert files(tmp_path) == ["checkpoint.ruined", "epoch=0-step=18.ckpt"]
    assert is_good(Path(save.best_model_path))


@quiet
@pytest.mark.parametrize("name", ["norm.running_mean", "norm.running_var"])
def test_running_means_that_are_nan_ruin_a_checkpoint(
    tmp_path: Path, name: str
) -> None:
    with pytest.warns(UserWarning, match=rf"buffers are not: {name} \(NaN\)"):
        fitted(tmp_path, guarding(), Ruin(name), saving(tmp_path), model=Buffered())

    assert files(tmp_path) == ["checkpoint.ruined", NAMES[-1]]


def test_infinite_masks_are_no_ruin(tmp_path: Path) -> None:
    ruin = Ruin("mask", -torch.inf)

    fitted(tmp_path, guarding(), ruin, saving(tmp_path), model=Buffered())

    assert files(tmp_path) == ["epoch=0-step=18.ckpt"]


@quiet
def test_warning_names_what_is_ruined_what_is_kept_and_the_way_back(
    tmp_path: Path,
) -> None:
    with pytest.warns(UserWarning, match="checkpoints with ruined weights") as said:
        fitted(tmp_path, guarding(), Ruin(), saving(tmp_path))

    saved = tmp_path / "saved"
    texts = [str(one.message) for one in said]
    assert (
        f"step 12: weights are not finite: first.weight (NaN), so they were not saved as "
        f"{saved / 'epoch=0-step=12.ckpt'}, but in {saved / 'checkpoint.ruined'}; to go "
        f'back to good ones: trainer.fit(..., ckpt_path="{saved / NAMES[-1]}")'
    ) in texts
    assert (
        f"GradGuard kept back {len(BAD)} checkpoints with ruined weights in this fit"
        in texts
    )


@quiet
def test_way_back_of_a_resumed_fit_is_where_it_came_from(tmp_path: Path) -> None:
    good = tmp_path / "good.ckpt"
    first = trainer(tmp_path / "one", guarding())
    first.fit(Twenty())
    first.save_checkpoint(good)
    save = saving(tmp_path, every_n_train_steps=35)
    options: dict[str, Any] = {"max_epochs": 2, "enable_checkpointing": True}
    runner = trainer(tmp_path, guarding(), RuinInTheSecondEpoch(), save, **options)

    with pytest.warns(UserWarning, match=rf'ckpt_path="{good}"'):
        runner.fit(Twenty(), ckpt_path=good, weights_only=False)


@quiet
def test_fit_without_a_good_checkpoint_is_told_so(tmp_path: Path) -> None:
    save = saving(tmp_path, every_n_train_steps=15)

    with pytest.warns(UserWarning, match="no good ones were saved in this fit"):
        fitted(tmp_path, guarding(), Ruin(), save)

    assert files(tmp_path) == ["checkpoint.ruined"]


@quiet
@pytest.mark.filterwarnings(
    "ignore:.*ckpt_path=.*:UserWarning"
)  # of one that looks back
@pytest.mark.parametrize(
    "save",
    [
        lambda path: OnExceptionCheckpoint(path / "saved", "last-words"),
        lambda path: saving(
            path, save_on_exception=True, filename="last-words", every_n_train_steps=99
        ),
    ],
    ids=["OnExceptionCheckpoint", "ModelCheckpoint"],
)
def test_exception_saves_no_ruin_over_what_was_there(
    tmp_path: Path, save: Callable[[Path], Checkpoint]
) -> None:
    kept = tmp_path / "saved/last-words.ckpt"

    with pytest.raises(RuntimeError, match="no more"):
        fitted(tmp_path, guarding(), Ruin(), save(tmp_path), Fail(kept))

    assert kept.read_text() == "good"
    assert (tmp_path / "saved/checkpoint.ruined").exists()


class Fail(Callback):
    """Raises after the ruin, and may leave a file before it does."""

    def __init__(self, file: Path | None = None) -> None:
        self.file = file

    @override
    def on_train_batch_start(
        self, trainer: Any, module: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == RUIN + 3:
            if self.file:
                self.file.parent.mkdir()
                self.file.write_text("good")
            raise RuntimeError("no more")


class RuinInTheSecondEpoch(Ruin):
    @override
    def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
        if trainer.current_epoch == 1:
            super().on_train_batch_end(trainer, *rest)


class ByHand(Callback):
    """Saves after each of some batches, under one name."""

    @override
    def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
        if trainer.global_step in self.steps:
            trainer.save_checkpoint(self.path)

    def __init__(self, path: Path, steps: tuple[int, ...]) -> None:
        self.path, self.steps = path, steps


class Rotating(Checkpoint):
    """Saves in a hook of its own choice, and deletes all but the newest two."""

    def __init__(self, directory: Path, hook: str) -> None:
        self.directory = directory
        self.saved: list[Path] = []
        setattr(self, hook, self.save)

    def save(self, trainer: Any, *_: Any) -> None:
        file = self.directory / f"{trainer.global_step}.ckpt"
        if trainer.global_step % EVERY or not trainer.global_step:
            return
        trainer.save_checkpoint(file)
        self.saved.append(file)
        if len(self.saved) > 2:
            self.saved.pop(0).unlink()


@quiet
@pytest.mark.parametrize(
    "hook", ["on_train_batch_start", "on_before_zero_grad", "on_train_batch_end"]
)
def test_no_hook_of_a_checkpoint_callback_deletes_good_files_for_ruin(
    tmp_path: Path, hook: str
) -> None:
    rotating = Rotating(tmp_path / "saved", hook)

    fitted(tmp_path, guarding(), Ruin(), rotating)

    assert [file.exists() for file in rotating.saved] == [True, True]
    assert all(map(is_good, rotating.saved))


@quiet
def test_save_by_hand_goes_beside_a_file_that_is_there(tmp_path: Path) -> None:
    by_hand = ByHand(tmp_path / "saved/mine.ckpt", (5, 15))

    fitted(tmp_path, guarding(), Ruin(), by_hand)

    assert files(tmp_path) == ["checkpoint.ruined", "mine.ckpt"]
    assert is_good(by_hand.path)


@quiet
def test_save_by_hand_under_a_new_name_is_done_and_told(tmp_path: Path) -> None:
    by_hand = ByHand(tmp_path / "saved/mine.ckpt", (15,))

    with pytest.warns(UserWarning, match=r"were saved in .*mine\.ckpt, as asked"):
        fitted(tmp_path, guarding(), Ruin(), by_hand)

    assert not is_good(by_hand.path)


@quiet
def test_averaged_weights_are_looked_at_where_these_are_saved(tmp_path: Path) -> None:
    average = WeightAveraging(
        avg_fn=lambda average, current, _: 0.5 * average + 0.5 * current
    )
    # The weights are well again before they are saved; their average never is.
    ruin = Ruin(last=10)

    fitted(tmp_path, guarding(), average, ruin, saving(tmp_path))

    assert files(tmp_path) == ["checkpoint.ruined", NAMES[-1]]


@quiet
def test_checkpoints_written_in_a_thread_are_kept_alike(tmp_path: Path) -> None:
    plugins = [AsyncCheckpointIO()]

    fitted(tmp_path, guarding(), Ruin(), saving(tmp_path), plugins=plugins)

    assert files(tmp_path) == ["checkpoint.ruined", NAMES[-1]]
    assert is_good(tmp_path / "saved" / NAMES[-1])


class Full(TorchCheckpointIO):
    """A disk without room for one file more."""

    @override
    def save_checkpoint(
        self, checkpoint: Any, path: Any, *rest: Any, **more: Any
    ) -> None:
        if Path(path).name == "checkpoint.ruined":
            raise OSError("no room")
        super().save_checkpoint(checkpoint, path, *rest, **more)


@quiet
def test_disk_without_room_for_the_ruin_ends_no_fit(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"but nowhere \(OSError: no room\)"):
        fitted(tmp_path, guarding(), Ruin(), saving(tmp_path), plugins=[Full()])

    assert files(tmp_path) == NAMES[-1:]


def test_recording_alone_keeps_nothing_back(tmp_path: Path) -> None:
    fitted(tmp_path, GradGuard(), Ruin(), saving(tmp_path))

    assert files(tmp_path) == ["epoch=0-step=18.ckpt"]


def test_good_checkpoints_are_those_of_a_fit_without_gradguard(tmp_path: Path) -> None:
    for name, callbacks in (("with", [guarding()]), ("without", [])):
        path = tmp_path / name
        fitted(path, *callbacks, saving(path, save_top_k=-1, save_last=True))

    assert files(tmp_path / "with") == files(tmp_path / "without")
    for name in files(tmp_path / "with"):
        ours, theirs = (
            weights_in(tmp_path / which / "saved" / name)
            for which in ("with", "without")
        )
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def attributes(runner: Trainer) -> list[set[str]]:
    return [set(vars(one)) for one in (runner.strategy, *runner.checkpoint_callbacks)]


class Look(Callback):
    """Sees in mid-fit what stands among the attributes of others."""

    @override
    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.seen = attributes(trainer)


@quiet
@pytest.mark.parametrize("fails", [False, True])
def test_no_end_of_a_fit_leaves_a_shadow(tmp_path: Path, fails: bool) -> None:
    look, after = Look(), []
    for name, guard in (("with", guarding()), ("without", GradGuard())):
        path = tmp_path / name
        callbacks = [guard, look, saving(path), *[Fail()] * fails]
        runner = trainer(path, *callbacks, enable_checkpointing=True)
        with pytest.raises(RuntimeError) if fails else nullcontext():
            runner.fit(Twenty())
        after.append(attributes(runner))
        if name == "with":
            strategy, callback = look.seen

    assert {"save_checkpoint", "teardown"} <= strategy - after[0][0]
    assert {"on_train_batch_end", "on_exception"} <= callback - after[0][1]
    assert after[0] == after[1]


@quiet
def test_callback_pickled_in_mid_fit_is_one_of_its_class(tmp_path: Path) -> None:
    copies: list[ModelCheckpoint] = []

    class Pickle(Callback):
        @override
        def on_train_batch_end(self, *_: Any) -> None:
            copies[:] = [pickle.loads(pickle.dumps(save))]

    save = saving(tmp_path)
    fitted(tmp_path, guarding(), save, Pickle())

    assert copies[0].best_model_path == str(tmp_path / "saved/epoch=0-step=18.ckpt")
    own = ModelCheckpoint.on_train_batch_end
    assert getattr(copies[0].on_train_batch_end, "__func__", None) is own
