"""GradGuard in real Trainers: what it writes, when, and what it leaves alone."""

import copy
import pickle
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from typing_extensions import override

from gradguard import ClipNorm, ClipValue, GradGuard
from gradguard.tensorboard.reader import read_run
from tests.support.event_files import events
from tests.support.processes import ENVIRONMENT
from tests.support.trainers import (
    Failing,
    Twenty,
    fit,
    same_weights,
)


@pytest.mark.parametrize(
    ("policy", "options"),
    [
        (ClipNorm(0.1), {"gradient_clip_val": 0.1}),
        (
            ClipValue(0.01),
            {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
        ),
    ],
    ids=["norm", "value"],
)
@pytest.mark.parametrize(
    "optimizer",
    [
        partial(torch.optim.SGD, lr=0.01, momentum=0.9, nesterov=True, foreach=True),
        partial(torch.optim.AdamW, lr=0.01),
    ],
    ids=["sgd_nesterov", "adamw"],
)
def test_own_clip_observed_clip_and_no_gradguard_give_the_same_weights(
    tmp_path: Path, policy: ClipNorm, options: dict[str, Any], optimizer: Any
) -> None:
    model = partial(Twenty, optimizer)

    alone = fit(tmp_path / "alone", model=model(), **options)
    observed = fit(tmp_path / "observed", GradGuard(), model=model(), **options)
    clipped = fit(tmp_path / "clipped", GradGuard(clip=policy), model=model())

    assert same_weights(observed, alone)
    assert same_weights(clipped, alone)
    seen, made = (read_run(tmp_path / name / "run") for name in ("observed", "clipped"))
    np.testing.assert_allclose(made.before, seen.before, rtol=1e-6)
    np.testing.assert_allclose(made.after, seen.after, rtol=1e-6)
    assert made.clip_fraction == seen.clip_fraction == 1.0


def test_policies_clip_in_the_order_given(tmp_path: Path) -> None:
    guard = GradGuard(clip=[ClipValue(0.01), ClipNorm(0.015)])

    fit(tmp_path, guard)

    run = read_run(tmp_path / "run")
    assert run.total_after == pytest.approx(0.015, rel=1e-4)


def test_clip_norm_per_parameter_bounds_each_parameter(tmp_path: Path) -> None:
    fit(tmp_path, GradGuard(clip=ClipNorm(0.05, per_parameter=True)))

    run = read_run(tmp_path / "run")
    expected = np.minimum(run.before, 0.05)
    np.testing.assert_allclose(run.after, expected, rtol=1e-4)


def test_two_who_clip_are_an_error_that_names_both(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"GradGuard\(clip=ClipNorm\(max_norm=5.0.*"):
        fit(tmp_path, GradGuard(clip=ClipNorm(5.0)), gradient_clip_val=1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_n_steps": 0}, "every_n_steps must be at least 1, got 0"),
        ({"max_scalars": -1}, "max_scalars must not be negative, got -1"),
    ],
)
def test_options_out_of_range_are_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        GradGuard(**options)


def test_parameters_without_a_gradient_are_missing_not_zero(tmp_path: Path) -> None:
    fit(tmp_path, GradGuard())

    run = read_run(tmp_path / "run")
    always = np.flatnonzero(run.missing.all(axis=0))
    assert [run.names[i] for i in always] == ["unused", "first.bias"]
    assert not run.nonfinite.any()


def test_accumulation_records_optimizer_steps(tmp_path: Path) -> None:
    fit(tmp_path, GradGuard(), limit_train_batches=7, accumulate_grad_batches=3)

    assert read_run(tmp_path / "run").steps.tolist() == [0, 1, 2]


def test_loss_of_each_step_is_recorded(tmp_path: Path) -> None:
    losses: list[float] = []

    class Losses(Callback):
        def on_train_batch_end(self, _: Any, __: Any, outputs: Any, *___: Any) -> None:
            losses.append(outputs["loss"].item())

    fit(tmp_path, Losses(), GradGuard())

    assert read_run(tmp_path / "run").loss.tolist() == losses


def test_documented_tags_are_those_written(tmp_path: Path) -> None:
    scaler = MixedPrecision("16-mixed", "cpu", GradScaler("cpu", init_scale=8.0))
    guard = GradGuard(clip=ClipNorm(0.1), layer_statistics=True)
    fit(tmp_path, guard, plugins=[scaler])

    documented = set(
        re.findall(r"^ +- `(\S+)`: ", GradGuard.__doc__ or "", re.MULTILINE)
    )
    written = set()
    for run in ("run", "run/before", "run/after"):
        tags = events(tmp_path / run).Tags()
        written |= {*tags["scalars"], *tags["tensors"]}
    names = "|".join(re.escape(name) for name, _ in Twenty().named_parameters())
    written = {re.sub(r"/[0-9a-f]{8}$", "/<hash>", tag) for tag in written}
    written = {
        re.sub(rf"^gradients/({names})$", "gradients/<parameter>", tag)
        for tag in written
    }
    written.add("gradguard/saved_step/<hash>")  # of a fit with a bad step
    assert documented == written - {"hp_metric", "epoch"}


def test_writes_come_at_the_log_cadence_in_one_event_each(tmp_path: Path) -> None:
    fit(tmp_path, GradGuard(), log_every_n_steps=8)

    points = events(tmp_path / "run").Scalars("gradguard/total_before")
    assert [point.step for point in points] == [7, 15, 19]


def test_every_evaluation_is_kept_where_a_batch_has_more_than_an_interval(
    tmp_path: Path,
) -> None:
    model = Twenty(partial(torch.optim.LBFGS, lr=0.01, max_iter=5))

    fit(tmp_path, GradGuard(), model=model, log_every_n_steps=2)

    run = read_run(tmp_path / "run")
    assert run.steps.tolist() == list(range(len(run.steps)))
    assert len(run.steps) > 2 * 20
    assert np.isfinite(run.loss).all()


def test_every_step_is_kept_where_the_trainer_logs_nothing(tmp_path: Path) -> None:
    fit(tmp_path, GradGuard(), log_every_n_steps=0)

    assert len(read_run(tmp_path / "run").steps) == 20


class Spike(Twenty):
    """Stands still; its loss is a thousand times itself at one step, NaN at another."""

    def __init__(self) -> None:
        super().__init__(partial(torch.optim.SGD, lr=0.0))

    @override
    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return loss * {13: 1000.0, 17: torch.nan}.get(batch_idx, 1.0)


def test_thinning_never_loses_a_spike(tmp_path: Path) -> None:
    fit(tmp_path, GradGuard(every_n_steps=10), model=Spike(), log_every_n_steps=20)

    run = read_run(tmp_path / "run")
    # The NaN of step 17 is written at once; 18 is the first of the next interval.
    assert run.steps.tolist() == [0, 10, 13, 17, 18]
    assert run.nonfinite.tolist() == [False, False, False, True, True]


def test_an_exceptional_step_is_written_at_once(tmp_path: Path) -> None:
    fit(tmp_path, GradGuard(), model=Spike())

    points = events(tmp_path / "run").Scalars("gradguard/total_before")
    assert [point.step for point in points] == [4, 9, 13, 17, 19]


def test_an_exception_leaves_every_step_on_disk(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no more batches"):
        fit(tmp_path, GradGuard(), model=Failing(), log_every_n_steps=20)

    assert read_run(tmp_path / "run").steps.tolist() == list(range(12))


def test_a_checkpoint_leaves_every_step_on_disk(tmp_path: Path) -> None:
    class Save(Callback):
        def on_train_batch_end(
            self, trainer: Any, _: Any, __: Any, ___: Any, batch_idx: int
        ) -> None:
            if batch_idx == 6:
                trainer.save_checkpoint(tmp_path / "at_6.ckpt")
                saved.extend(read_run(tmp_path / "run").steps.tolist())

    saved: list[int] = []
    fit(tmp_path, GradGuard(), Save(), log_every_n_steps=20)

    assert saved == list(range(7))


def test_a_killed_process_loses_at_most_one_buffer(tmp_path: Path) -> None:
    script = f"""
        import os, signal, sys
        from pathlib import Path
        from lightning.pytorch import Callback
        from tests.support.trainers import fit
        from gradguard import GradGuard

        class Kill(Callback):
            def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
                if batch_idx == 17:
                    os.kill(os.getpid(), signal.SIGKILL)

        fit(Path({str(tmp_path)!r}), GradGuard(), Kill())
    """

    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], check=False, env=ENVIRONMENT
    )

    assert done.returncode == -signal.SIGKILL
    assert len(read_run(tmp_path / "run").steps) >= 17 - 2 * 5


def test_other_loggers_get_the_scalars(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name=None, version="csv")

    fit(tmp_path, GradGuard(clip=ClipNorm(0.1)), logger=logger)

    header, *rows = (tmp_path / "csv/metrics.csv").read_text().splitlines()
    assert "gradguard/total_before" in header.split(",")
    assert len(rows) == 20 / 5


def test_observing_without_a_logger_says_so(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="nowhere to write to"):
        fit(tmp_path, GradGuard(), logger=False)


def test_two_fits_of_one_callback_give_two_runs(tmp_path: Path) -> None:
    guard = GradGuard()

    fit(tmp_path / "one", guard)
    fit(tmp_path / "two", guard)

    one, two = (read_run(tmp_path / name / "run") for name in ("one", "two"))
    np.testing.assert_array_equal(one.before, two.before)


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda guard: pickle.loads(pickle.dumps(guard))],
    ids=["copy", "pickle"],
)
def test_copy_taken_in_mid_fit_records_as_the_original(
    tmp_path: Path, copied: Callable[[GradGuard], GradGuard]
) -> None:
    copies: list[GradGuard] = []

    class Copy(Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            copies.append(copied(guard))

    guard = GradGuard(clip=ClipNorm(0.1))
    fit(tmp_path / "one", guard, Copy())
    fit(tmp_path / "two", copies[0])

    one, two = (read_run(tmp_path / name / "run") for name in ("one", "two"))
    np.testing.assert_array_equal(two.after, one.after)
