"""What a dump holds of a bad step, and what becomes of one that cannot be written."""

import math
import resource
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.utils.data import DataLoader
from typing_extensions import override

from gradguard import ClipNorm, GradGuard
from gradguard.guard.dump import write
from gradguard.guard.random_state import set_random_state
from tests.support.modules import Gan, ManualAccumulation, ManualRawBoth, Net, no_clip
from tests.support.trainers import fit

BAD = 7  # the batch whose loss is infinite

pytestmark = [
    pytest.mark.filterwarnings("ignore:update skipped:UserWarning"),
    pytest.mark.filterwarnings("ignore:Found 1 module.s. in eval mode"),
]


class Breaking(Net):
    """Twenty batches `[2, 4]`, and a loss that draws from two generators."""

    @override
    def batches(self) -> Any:
        return list(torch.randn(20, 2, 4, generator=torch.manual_seed(1)))

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        noise = torch.rand(()) + np.random.rand()  # noqa: NPY002 (what users draw from)
        return self.loss(batch) * noise * (math.inf if batch_idx == BAD else 1)


class Normalised(Breaking):
    """Keeps what its buffers held before each batch, and the gradients at each update."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.norm = nn.BatchNorm1d(width)
        self.drop = nn.Dropout(0.5)
        self.frozen = nn.Linear(1, 1).eval().requires_grad_(False)
        self.buffers_before: list[dict[str, Tensor]] = []
        self.gradients: list[dict[str, Tensor]] = []

    @override
    def output(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.drop(self.norm(self.first(x))))
        return y

    @override
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        kept = {name: each.clone() for name, each in self.named_buffers()}
        self.buffers_before.append(kept)

    @override
    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.gradients.append(gradients(self))


def gradients(module: nn.Module) -> dict[str, Tensor]:
    named = module.named_parameters()
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


def dumped(path: Path, model: LightningModule, **options: Any) -> dict[str, Any]:
    """Train, and return what was saved of the first bad step."""
    guard = GradGuard(
        options.pop("clip", None),
        on_nonfinite="skip",
        max_consecutive_skips=100,
        dump_dir=path / "dump",
    )
    fit(path, guard, model=model, **options)
    (file,) = (path / "dump").iterdir()
    content: dict[str, Any] = torch.load(file, weights_only=True)
    return content


def test_dump_repeats_every_gradient_of_an_accumulated_step_to_the_bit(
    tmp_path: Path,
) -> None:
    trained = Normalised()
    bad = dumped(tmp_path, trained, accumulate_grad_batches=3)

    again = Normalised()
    again.load_state_dict({**bad["weights"], **bad["buffers"]})
    for saved in bad["batches"]:
        set_random_state(saved["random_state"])
        loss = again.training_step(saved["batch"], saved["batch_idx"])
        (loss / 3).backward()
    assert [saved["batch_idx"] for saved in bad["batches"]] == [6, 7, 8]
    was, is_ = trained.gradients[6 // 3], gradients(again)
    assert was.keys() == is_.keys()
    for name in was:
        torch.testing.assert_close(is_[name], was[name], rtol=0, atol=0, equal_nan=True)


def test_window_that_an_epoch_cuts_short_begins_anew(tmp_path: Path) -> None:
    class Late(Breaking):
        @override
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.loss(batch) * (math.inf if self.current_epoch else 1)

    bad = dumped(tmp_path, Late(), accumulate_grad_batches=3, max_epochs=2)

    assert [saved["batch_idx"] for saved in bad["batches"]] == [0, 1, 2]
    assert bad["trainer"]["current_epoch"] == 1


def test_buffers_are_from_before_the_forward_pass_that_ruins_them(
    tmp_path: Path,
) -> None:
    class Poisoned(Normalised):
        @override
        def batches(self) -> Any:
            batches = super().batches()
            batches[BAD][0, 0] = math.nan
            return batches

    trained = Poisoned()
    bad = dumped(tmp_path, trained)

    assert trained.norm.running_mean.isnan().all()  # type: ignore[union-attr] # there is one
    before = trained.buffers_before[BAD]
    assert bad["buffers"].keys() == before.keys()
    assert all(torch.equal(bad["buffers"][name], before[name]) for name in before)
    assert bad["buffers"]["norm.running_mean"].isfinite().all()


def test_dump_says_what_the_run_was(tmp_path: Path) -> None:
    bad = dumped(
        tmp_path,
        Normalised(width=8),
        clip=ClipNorm(1.0),
        precision="bf16-mixed",
        max_epochs=3,
    )

    assert (bad["format"], bad["version"]) == ("gradguard bad step", 2)
    assert bad["versions"]["torch"] == torch.__version__
    assert bad["module"]["path"] == "tests.guard.test_dump:Normalised"
    assert bad["module"]["hparams"] == {"width": 8}
    assert bad["autocast"] == {"device": "cpu", "dtype": "torch.bfloat16"}
    assert bad["trainer"]["precision"] == "bf16-mixed"
    assert bad["trainer"]["num_training_batches"] == 20
    assert bad["trainer"]["max_epochs"] == 3
    assert bad["modes"]["drop"]
    assert not bad["modes"]["frozen"]
    assert bad["requires_grad"]["first.weight"]
    assert not bad["requires_grad"]["frozen.weight"]
    assert (bad["step"], bad["loss"]) == (BAD, math.inf)
    assert bad["optimizers"][bad["optimizer"]]["param_groups"][0]["lr"] == 0.05


def test_gradients_are_counted_by_kind_and_measured(tmp_path: Path) -> None:
    class OneNaN(Breaking):
        @override
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.loss(batch)

        @override
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            for parameter in self.parameters():
                parameter.grad = torch.full_like(parameter, 2.0)
            assert self.second.bias.grad is not None
            self.second.bias.grad[0] = -math.inf

    bad = dumped(tmp_path, OneNaN())

    finite = {"nan": 0, "plus_inf": 0, "minus_inf": 0, "finite": 4 * 8}
    norm_before = 2 * math.sqrt(4 * 8)
    assert bad["gradients"]["first.weight"] == {**finite, "norm_before": norm_before}
    assert bad["gradients"]["second.bias"]["minus_inf"] == 1
    assert bad["gradients"]["second.bias"]["norm_before"] == math.inf


def test_loss_scale_in_force_is_saved(tmp_path: Path) -> None:
    class Behind(Breaking):
        """Breaks where the scaler has looked already."""

        @override
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.loss(batch)

        @override
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            assert self.second.bias.grad is not None
            self.second.bias.grad[0] = math.nan

    scaler = GradScaler("cpu", init_scale=64.0)
    bad = dumped(
        tmp_path, Behind(), plugins=[MixedPrecision("16-mixed", "cpu", scaler)]
    )

    assert bad["scaler"]["scale"] == 64.0
    assert bad["autocast"] == {"device": "cpu", "dtype": "torch.float16"}


def test_update_behind_others_of_its_batch_comes_with_weights_from_before_them(
    tmp_path: Path,
) -> None:
    class Two(Gan):
        def __init__(self) -> None:
            super().__init__(no_clip)
            self.weights_before: list[dict[str, Tensor]] = []

        @override
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            kept = {name: p.detach().clone() for name, p in self.named_parameters()}
            self.weights_before.append(kept)

        @override
        def discriminator_loss(self, x: Tensor) -> Any:
            bad = len(self.weights_before) == 4  # batch 3
            return super().discriminator_loss(x) * (math.inf if bad else 1)

    model = Two()
    bad = dumped(tmp_path, model)

    assert (bad["optimizer"], bad["updates_before"]) == (1, 1)
    assert not bad["weights_moved"]
    before = model.weights_before[3]
    assert all(torch.equal(bad["weights"][name], before[name]) for name in before)
    # Toggled as it was saved; what the training step begins with counts.
    assert all(bad["requires_grad"].values())


@pytest.mark.parametrize("manual", [ManualAccumulation, ManualRawBoth])
def test_window_of_manual_optimisation_ends_with_an_update(
    tmp_path: Path, manual: Any
) -> None:
    class Late(manual):  # type: ignore[misc] # a parameter
        def __init__(self) -> None:
            super().__init__(no_clip)

        def loss(self, x: Tensor) -> Any:
            self.seen = getattr(self, "seen", 0) + 1
            return super().loss(x) * (math.inf if self.seen == 4 else 1)

    bad = dumped(tmp_path, Late())

    batches = {ManualAccumulation: [3, 4, 5], ManualRawBoth: [3]}
    assert [saved["batch_idx"] for saved in bad["batches"]] == batches[manual]


def test_batch_that_is_changed_in_place_is_told(tmp_path: Path) -> None:
    class InPlace(Breaking):
        @override
        def batches(self) -> Any:
            return [{"x": x, "y": [x.clone()]} for x in super().batches()]

        @override
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            batch["y"][0].mul_(2)
            return super().training_step(batch["x"], batch_idx)

    bad = dumped(tmp_path, InPlace())

    assert bad["batches"][0]["changed"] == ["batch['y'][0]"]


def test_rows_of_a_large_tensor_are_saved_without_the_others(tmp_path: Path) -> None:
    class Rows(Breaking):
        @override
        def batches(self) -> Any:
            return list(torch.randn(20, 2, 4).repeat(50_000, 1, 1)[:20])

        @override
        def train_dataloader(self) -> Any:
            return DataLoader(self.batches(), batch_size=None, collate_fn=lambda x: x)

    dumped(tmp_path, Rows())

    (file,) = (tmp_path / "dump").iterdir()
    assert file.stat().st_size < 100_000 < 1_000_000 * 2 * 4 * 4


@pytest.mark.filterwarnings("ignore:Attribute 'activation' removed:UserWarning")
def test_hyperparameter_that_cannot_be_pickled_is_left_out(tmp_path: Path) -> None:
    class Odd(Breaking):
        def __init__(self, activation: Any, width: int) -> None:
            super().__init__()
            self.save_hyperparameters()

    bad = dumped(tmp_path, Odd(lambda x: x, width=3))

    assert bad["module"]["hparams"] == {"width": 3}


class Unpicklable(Breaking):
    @override
    def batches(self) -> Any:
        return [{"x": x, "f": lambda x: x} for x in super().batches()]

    @override
    def train_dataloader(self) -> Any:
        return DataLoader(self.batches(), batch_size=None)

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch["x"], batch_idx)


def test_batch_that_cannot_be_pickled_costs_the_dump_and_nothing_else(
    tmp_path: Path,
) -> None:
    guard = GradGuard(on_nonfinite="skip", dump_dir=tmp_path / "dump")

    with pytest.warns(UserWarning, match=r"batch 7 \(not saved in .*-0.pt: .*pickle"):
        model = fit(tmp_path, guard, model=Unpicklable())

    assert model.trainer.global_step == 20
    assert list((tmp_path / "dump").iterdir()) == []


def test_dump_that_does_not_fit_says_how_large_it_would_have_been(
    tmp_path: Path,
) -> None:
    gib = shutil.disk_usage(tmp_path).free // 2**30 + 1
    hole = tmp_path / "hole"
    # A file with a hole in it is as large as one likes and takes no room.
    batch = torch.from_file(str(hole), shared=True, size=gib * 2**30, dtype=torch.uint8)

    with pytest.raises(OSError, match=rf"its {gib}\.0 GiB are more than half of the"):
        write({"batches": [{"batch": batch}]}, tmp_path / "dump.pt")

    assert [file.name for file in tmp_path.iterdir()] == ["hole"]


def test_disk_that_fills_up_leaves_nothing_half_written(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
        with pytest.raises((OSError, RuntimeError)):
            write({"batch": torch.ones(10_000)}, tmp_path / "dump.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert list(tmp_path.iterdir()) == []
