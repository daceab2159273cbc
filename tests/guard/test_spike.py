"""Finite steps far above the recent ones: which ones are stopped, and what is learned."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from typing_extensions import override

import gradguard
from gradguard import ClipNorm, GradGuard, Spike, SpikeError
from gradguard.guard.spike import parse
from gradguard.guard.usual import Outlier, SpikeWatch
from gradguard.tensorboard.reader import read_recordings, read_run
from tests.support.modules import Net
from tests.support.trainers import fit, same_weights, trainer

UNKNOWN = math.nan

# Every skip warns once; the test that asks for the warning sees it.
pytestmark = pytest.mark.filterwarnings("ignore:update skipped:UserWarning")


class Scaled(Net):
    """A line without a bound: batch i is scaled by the i-th factor, and so is its gradient."""

    def __init__(self, factors: Sequence[float], *, spoiled: int | None = None) -> None:
        super().__init__()
        self.second = nn.Linear(4, 1)
        self.factors = factors
        self.spoiled = spoiled  # this batch has a NaN in its gradient

    @override
    def batches(self) -> list[Tensor]:
        rows = torch.randn(len(self.factors), 2, 4, generator=torch.manual_seed(1))
        return [row * factor for row, factor in zip(rows, self.factors, strict=True)]

    @override
    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = (
            self.second(batch).square().mean() + self.first(batch / 1e9).mean()
        )
        self.log("number", float(batch_idx))
        return loss * (math.nan if batch_idx == self.spoiled else 1)

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-4)


def refused(path: Path) -> list[int]:
    run = read_run(path / "run")
    return [int(step) for step in run.steps[run.refused]]


def usual(count: int) -> list[float]:
    return [1.0] * count


def test_spike_is_skipped_and_named(tmp_path: Path) -> None:
    model = Scaled([*usual(70), 1e3, *usual(9)])

    with pytest.warns(UserWarning, match="update skipped") as warned:
        fit(tmp_path, GradGuard(on_spike="skip"), model=model)

    assert refused(tmp_path) == [70]
    (said,) = [str(each.message) for each in warned if "skipped" in str(each.message)]
    assert said.startswith("update skipped at step 70, batch 70: the total before ")
    assert "second.weight (" in said
    assert said.endswith("look at this batch")


def test_weights_and_optimizer_are_those_of_a_run_without_it(tmp_path: Path) -> None:
    skipping = fit(
        tmp_path / "spike",
        GradGuard(on_spike="skip"),
        model=(one := Scaled([*usual(70), 1e3, *usual(9)])),
    )
    without = Scaled(usual(80))
    batches = one.batches()
    without.batches = lambda: [*batches[:70], *batches[71:]]  # type: ignore[method-assign]

    fit(tmp_path / "healthy", model=without)

    assert same_weights(skipping, without)


def test_raise_ends_the_training_before_the_update(tmp_path: Path) -> None:
    model = Scaled([*usual(70), 1e3, *usual(9)])

    with pytest.raises(SpikeError, match="step 70, batch 70: the total before"):
        fit(tmp_path, GradGuard(on_spike="raise"), model=model)

    assert refused(tmp_path) == [70]


def test_record_lets_it_pass(tmp_path: Path) -> None:
    fit(tmp_path, GradGuard(), model=Scaled([*usual(70), 1e3, *usual(9)]))

    assert refused(tmp_path) == []


def test_a_spike_before_the_clip_counts_though_the_clip_would_tame_it(
    tmp_path: Path,
) -> None:
    model = Scaled([*usual(70), 1e3, *usual(9)])

    fit(tmp_path, GradGuard(ClipNorm(1e-3), on_spike="skip"), model=model)

    assert refused(tmp_path) == [70]


def test_nothing_is_a_spike_before_the_window_is_half_full(tmp_path: Path) -> None:
    fit(tmp_path, GradGuard(on_spike="skip"), model=Scaled([*usual(60), 1e3, 1.0]))

    assert refused(tmp_path) == []


def test_one_nan_neither_enters_the_window_nor_blinds_it(tmp_path: Path) -> None:
    model = Scaled([*usual(70), 1e3, *usual(9)], spoiled=20)

    fit(
        tmp_path,
        GradGuard(on_nonfinite="skip", on_spike="skip"),
        model=model,
    )

    assert refused(tmp_path) == [20, 70]


def test_spikes_do_not_become_usual(tmp_path: Path) -> None:
    spikes = [1e3 if step % 4 == 0 else 1.0 for step in range(200)]

    fit(tmp_path, GradGuard(on_spike="skip"), model=Scaled([*usual(100), *spikes]))

    assert refused(tmp_path) == list(range(100, 300, 4))


def test_level_shift_is_accepted_with_a_warning(tmp_path: Path) -> None:
    model = Scaled([*usual(100), *[100.0] * 100])
    guard = GradGuard(on_spike="skip", max_consecutive_skips=5)

    with pytest.warns(UserWarning, match="step 105 counts as usual from now on"):
        fit(tmp_path, guard, model=model)

    assert refused(tmp_path) == [100, 101, 102, 103, 104]


def test_slow_growth_is_none(tmp_path: Path) -> None:
    growing = list(np.geomspace(1, 1e6, 400))

    fit(tmp_path, GradGuard(on_spike="skip"), model=Scaled(growing))

    assert refused(tmp_path) == []


class Lifted(Scaled):
    """Adds a constant to the loss of a batch, of which no gradient tells."""

    @override
    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx) + 1e6 * (batch_idx == 70)


@pytest.mark.parametrize(("watch", "skips"), [(["norm"], []), (["loss"], [70])])
def test_only_what_is_watched_counts(
    tmp_path: Path, watch: Any, skips: list[int]
) -> None:
    guard = GradGuard(on_spike=Spike(watch=watch), max_scalars=0)

    fit(tmp_path, guard, model=Lifted(usual(80)))

    assert refused(tmp_path) == skips


def test_spike_and_nan_are_saved_and_run_again(tmp_path: Path) -> None:
    model = Scaled([*usual(70), 1e3, *usual(9)], spoiled=75)
    guard = GradGuard(on_nonfinite="skip", on_spike="skip", dump_dir=tmp_path / "bad")

    fit(tmp_path, guard, model=model)

    spike, nan = sorted((tmp_path / "bad").iterdir())
    assert (spike.name, nan.name) == ("bad-step-70-rank-0.pt", "bad-step-75-rank-0.pt")
    found = gradguard.replay(spike, Scaled([]))
    assert found.reproduced
    assert found.was_finite
    assert found.samples is not None
    assert found.samples.culprits
    (recording,) = read_recordings(tmp_path / "run").values()
    assert [saved.step for saved in recording.saved_steps] == [70, 75]


class Late(Scaled):
    """Sixty usual batches an epoch, and a spike at step 100."""

    def __init__(self) -> None:
        super().__init__(usual(60))

    @override
    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        factor = 1e6 if self.trainer.global_step == 100 else 1
        return super().training_step(batch, batch_idx) * factor


class Saving(Callback):
    """Saves a checkpoint at the end of the first epoch."""

    def __init__(self, file: Path) -> None:
        self.file = file

    @override
    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.current_epoch == 0:
            trainer.save_checkpoint(self.file)


def test_what_is_usual_is_in_the_checkpoint(tmp_path: Path) -> None:
    file, whole, resumed = tmp_path / "epoch.ckpt", Late(), Late()

    def guard() -> GradGuard:
        return GradGuard(on_spike="skip")

    trainer(tmp_path / "whole", guard(), Saving(file), max_epochs=2).fit(whole)
    trainer(tmp_path, guard(), max_epochs=2).fit(resumed, ckpt_path=file)

    assert refused(tmp_path) == [100]  # too few steps since 60 to tell it by themselves
    assert same_weights(whole, resumed)


positive = st.floats(1e-30, 1e30)


@given(st.lists(positive, min_size=8, max_size=40), positive, st.floats(0.5, 9))
@settings(max_examples=200, deadline=None)
def test_limit_is_that_of_the_formula(
    values: list[float], norm: float, sigma: float
) -> None:
    watch = SpikeWatch(Spike(sigma=sigma, window=16, watch=["norm"]), 10)
    watch.accept(UNKNOWN, UNKNOWN)
    for value in values:
        watch._usual["norm"].add(math.log(value))
    logs = np.log(values[-16:])
    limit = logs.mean() + sigma * logs.std() + math.log(4)

    found = watch.look(norm, UNKNOWN)

    if abs(math.log(norm) - limit) > 1e-6:
        assert (found is not None) == (math.log(norm) > limit)


def fed(watch: SpikeWatch, norms: Sequence[float]) -> list[Outlier | None]:
    return [watch.look(norm, UNKNOWN) for norm in norms]


@given(st.integers(0, 40), st.lists(st.sampled_from([1.0, 2.0, 0.5, 1e6]), max_size=60))
@settings(max_examples=100, deadline=None)
def test_state_goes_on_where_it_was(cut: int, norms: list[float]) -> None:
    setting = Spike(window=16)
    whole, first, second = (SpikeWatch(setting, 3) for _ in range(3))

    told = fed(whole, norms)
    before = fed(first, norms[:cut])
    second.load_state_dict(first.state_dict())
    after = fed(second, norms[cut:])

    assert list(map(bool, before + after)) == list(map(bool, told))
    assert whole.in_a_row == second.in_a_row


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_what_has_no_logarithm_is_left_out(value: float) -> None:
    watch = SpikeWatch(Spike(window=8), 10)

    found = [watch.look(1.0, value) for _ in range(20)]

    assert found == [None] * 20
    assert watch.look(1.0, 1e9) is None  # of the loss nothing is known
    assert watch.look(1e9, value) is not None


ARGUMENTS: list[tuple[dict[str, Any], str]] = [
    ({"action": "stop"}, 'on_spike must be "record", "skip" or "raise", got \'stop\''),
    ({"sigma": 0}, "sigma of Spike must be above 0, got 0"),
    ({"window": 7}, "window of Spike must be at least 8, got 7"),
    ({"watch": []}, 'watch of Spike must name "norm", "loss" or both'),
    ({"watch": "gradient"}, 'watch of Spike must name "norm", "loss" or both'),
]


@pytest.mark.parametrize(("options", "message"), ARGUMENTS)
def test_what_a_spike_cannot_be_is_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Spike(**options)


def test_text_is_an_action_with_sigma_behind_it() -> None:
    assert parse("skip") == Spike("skip")
    assert parse("raise : 8") == Spike("raise", sigma=8)
    with pytest.raises(
        ValueError, match=r"expects record, skip or raise, .*got 'skip:x'"
    ):
        parse("skip:x")
