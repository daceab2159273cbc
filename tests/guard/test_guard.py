"""GradGuard with policies that learn: what it logs and what it saves."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback

from gradguard import (
    AdaptiveClip,
    AutoClip,
    ByName,
    ClipNorm,
    ClipValue,
    GradGuard,
    ZClip,
)
from gradguard.clipping.policy import Policy
from gradguard.fit.recorder import StepRecorder
from gradguard.guard.seen import seen
from gradguard.tensorboard.reader import read_run
from tests.support.event_files import events
from tests.support.syncs import Syncs
from tests.support.trainers import Twenty, fit, same_weights, trainer

LEARNERS: list[Policy] = [AutoClip(30), ZClip(0.3, warmup=4)]
learners = pytest.mark.parametrize("policy", LEARNERS, ids=repr)


@learners
def test_resumed_run_has_the_weights_of_an_uninterrupted_one(
    policy: Policy, tmp_path: Path
) -> None:
    # So slow that norms of the last epoch are as large as those of the first.
    net = partial(Twenty, partial(torch.optim.SGD, lr=1e-3, momentum=0.5))
    whole = fit(tmp_path / "a", GradGuard(clip=policy), model=net(), max_epochs=4)
    first = trainer(tmp_path / "b", GradGuard(clip=policy), max_epochs=2)
    first.fit(net())
    first.save_checkpoint(tmp_path / "half.ckpt")
    resumed = net()
    trainer(tmp_path / "c", GradGuard(clip=policy), max_epochs=4).fit(
        resumed, ckpt_path=str(tmp_path / "half.ckpt")
    )

    assert same_weights(resumed, whole)
    clipped = read_run(tmp_path / "a" / "run").clipped
    assert 0 < clipped[40:].sum() < 40


@learners
def test_policy_put_in_front_takes_nothing_from_a_checkpoint(
    policy: Policy, tmp_path: Path
) -> None:
    first = trainer(tmp_path / "a", GradGuard(clip=policy), max_epochs=2)
    first.fit(Twenty())
    first.save_checkpoint(tmp_path / "half.ckpt")

    second = trainer(tmp_path / "b", GradGuard(clip=[ClipNorm(9.0), policy]))
    second.fit_loop.max_epochs = 4
    second.fit(Twenty(), ckpt_path=str(tmp_path / "half.ckpt"))
    second.save_checkpoint(tmp_path / "whole.ckpt")

    saved = (tmp_path / name for name in ("half.ckpt", "whole.ckpt"))
    learned = [
        torch.load(path, weights_only=True)["gradguard"]["learned"][0] for path in saved
    ]
    seen = [int(state[f"0.{type(policy).__name__}"]["seen"]) for state in learned]
    assert seen == [40, 80]


def test_checkpoint_of_an_observer_is_as_it_was(tmp_path: Path) -> None:
    class Save(Callback):
        def on_train_end(self, trainer: Any, _: Any) -> None:
            trainer.save_checkpoint(tmp_path / "end.ckpt")

    fit(tmp_path, GradGuard(), Save())

    assert "gradguard" not in torch.load(tmp_path / "end.ckpt", weights_only=True)


def test_a_new_fit_learns_afresh(tmp_path: Path) -> None:
    guard = GradGuard(clip=AutoClip(30))

    fit(tmp_path / "one", guard)
    fit(tmp_path / "two", guard)

    one, two = (read_run(tmp_path / name / "run") for name in ("one", "two"))
    np.testing.assert_array_equal(one.after, two.after)


def test_threshold_in_force_is_logged(tmp_path: Path) -> None:
    fit(tmp_path, GradGuard(clip=AutoClip(50)), log_every_n_steps=4)

    totals = read_run(tmp_path / "run").total_before
    logged = events(tmp_path / "run").Scalars("gradguard/threshold")
    assert [point.value for point in logged] == pytest.approx(
        [np.percentile(totals[:seen], 50) for seen in (4, 8, 12, 16, 20)]
    )


def test_several_thresholds_are_told_apart(tmp_path: Path) -> None:
    policy = ByName({"first.*": ClipNorm(0.1), "second.*": ClipValue(0.2)})

    fit(tmp_path, GradGuard(clip=policy))

    tags = events(tmp_path / "run").Tags()["scalars"]
    assert sorted(tag for tag in tags if "threshold" in tag) == [
        "gradguard/threshold/first.*",
        "gradguard/threshold/second.*",
    ]


def test_pattern_without_parameters_ends_the_fit_at_its_start(tmp_path: Path) -> None:
    guard = GradGuard(clip=ByName({"frist.*": ClipNorm(0.1)}))

    with pytest.raises(ValueError, match="matches no parameter; the nearest: first"):
        fit(tmp_path, guard)


def syncs_per_step(
    path: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any
) -> float:
    """Train 20 steps; count the syncs in what gradguard does at each of them."""

    def counted(see: Any) -> Any:
        def see_counted(*args: Any) -> Any:
            with Syncs():  # type: ignore[no-untyped-call] # by its base
                return see(*args)

        return see_counted

    for moment in ("take_before", "_take"):
        monkeypatch.setattr(
            StepRecorder, moment, counted(getattr(StepRecorder, moment))
        )
    monkeypatch.setattr(Syncs, "count", 0)
    fit(path, GradGuard(**settings))
    return Syncs.count / 20


@pytest.mark.parametrize(
    "clip",
    [None, ClipNorm(0.1), ClipValue(0.01), *LEARNERS, AdaptiveClip()],
    ids=repr,
)
def test_recording_and_clipping_never_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip: Any
) -> None:
    assert syncs_per_step(tmp_path, monkeypatch, clip=clip) == 0


def test_what_a_gate_decides_by_is_one_copy_away() -> None:
    optimizer = torch.optim.SGD([torch.ones(2, requires_grad=True)], 0.1)
    optimizer.found_inf = torch.zeros(1)  # type: ignore[attr-defined] # as scalers do
    norms, loss = torch.tensor([3.0, 4.0, -1.0]), torch.tensor(2.0)
    before = Syncs.count

    with Syncs():  # type: ignore[no-untyped-call] # by its base
        values = seen(optimizer, loss, [norms, norms], torch.device("cpu"))

    assert Syncs.count == before
    assert values.tolist() == [5.0, 5.0, 2.0]


def test_a_planted_item_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Planted(ClipNorm):
        def clip(self, gradients: Any, norms: Any, state: Any) -> Any:
            norms.sum().item()
            return super().clip(gradients, norms, state)

    assert syncs_per_step(tmp_path, monkeypatch, clip=Planted(0.1)) == 1
