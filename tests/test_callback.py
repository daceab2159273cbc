"""GradGuard in real Trainers: what it writes, when, and what it leaves alone."""

import copy
import pickle
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from gradguard import ClipNorm, ClipValue, GradGuard
from gradguard.records.records import Records
from gradguard.tensorboard.reader import read_run
from tests.support.processes import ENVIRONMENT
from tests.support.trainers import (
    Failing,
    Net,
    Optimizers,
    events,
    fit,
    trainer,
    weights,
)


class Oracle(Callback):
    """Norms by a float64 loop, in the hooks that suit plain automatic optimisation."""

    def __init__(self) -> None:
        self.before: list[list[float]] = []
        self.after: list[list[float]] = []

    @staticmethod
    def norms(module: LightningModule) -> list[float]:
        gradients = [p.grad for p in module.parameters()]
        return [np.nan if g is None else float(g.double().norm()) for g in gradients]

    def on_before_optimizer_step(self, _: Any, module: Any, __: Any) -> None:
        self.before.append(self.norms(module))

    def on_train_batch_end(self, _: Any, module: Any, *__: Any) -> None:
        self.after.append(self.norms(module))

    def agrees_with(self, run: Records) -> bool:
        np.testing.assert_allclose(run.before, self.before, rtol=1e-5)
        np.testing.assert_allclose(run.after, self.after, rtol=1e-5)
        return True


class OwnClipping(Net):
    def configure_gradient_clipping(self, *_: Any, **__: Any) -> None:
        nn.utils.clip_grad_norm_(self.first.parameters(), 0.05)


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (Net(), {}),
        (Net(), {"gradient_clip_val": 0.1}),
        (Net(), {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}),
        (OwnClipping(), {}),
        (Net(), {"accumulate_grad_batches": 1, "precision": "64-true"}),
    ],
    ids=["nobody", "norm", "value", "own_hook", "float64"],
)
def test_observer_records_both_norms_whoever_clips(
    tmp_path: Path, model: Net, options: dict[str, Any]
) -> None:
    oracle = Oracle()

    fit(tmp_path, oracle, GradGuard(), model=model, **options)

    run = read_run(tmp_path / "run")
    assert run.names == tuple(name for name, _ in model.named_parameters())
    assert run.steps.tolist() == list(range(20))
    assert oracle.agrees_with(run)


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
        lambda p: torch.optim.SGD(p, 0.1, 0.9, nesterov=True, foreach=True),
        lambda p: torch.optim.AdamW(p, 0.01),
    ],
    ids=["sgd_nesterov", "adamw"],
)
def test_own_clip_observed_clip_and_no_gradguard_give_the_same_weights(
    tmp_path: Path, policy: ClipNorm, options: dict[str, Any], optimizer: Optimizers
) -> None:
    model = Net(optimizer=optimizer)

    alone = fit(tmp_path / "alone", model=model, **options)
    observed = fit(tmp_path / "observed", GradGuard(), model=model, **options)
    clipped = fit(tmp_path / "clipped", GradGuard(clip=policy), model=model)

    assert torch.equal(weights(observed), weights(alone))
    assert torch.equal(weights(clipped), weights(alone))
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
    assert [run.names[i] for i in always] == ["unused", "frozen.weight", "frozen.bias"]
    assert not run.nonfinite.any()


def test_accumulation_records_optimizer_steps(tmp_path: Path) -> None:
    model = Net(num_batches=7)

    fit(tmp_path, GradGuard(), model=model, accumulate_grad_batches=3)

    assert read_run(tmp_path / "run").steps.tolist() == [0, 1, 2]


def test_loss_of_each_step_is_recorded(tmp_path: Path) -> None:
    losses: list[float] = []

    class Losses(Callback):
        def on_train_batch_end(self, _: Any, __: Any, outputs: Any, *___: Any) -> None:
            losses.append(outputs["loss"].item())

    fit(tmp_path, Losses(), GradGuard())

    assert read_run(tmp_path / "run").loss.tolist() == losses


def test_documented_table_is_what_is_written(tmp_path: Path) -> None:
    scaler = MixedPrecision("16-mixed", "cpu", GradScaler("cpu", init_scale=8.0))
    guard = GradGuard(clip=ClipNorm(0.1), layer_statistics=True)
    fit(tmp_path, guard, plugins=[scaler])

    _, table, _ = re.split(r"^ +=+ =+$", GradGuard.__doc__ or "", flags=re.MULTILINE)
    documented = set(re.findall(r"^    `(\S+)` ", table, re.MULTILINE))
    written = set()
    for run in ("run", "run/before", "run/after"):
        tags = events(tmp_path / run).Tags()
        written |= {*tags["scalars"], *tags["tensors"]}
    names = "|".join(re.escape(name) for name, _ in Net().named_parameters())
    written = {re.sub(r"/[0-9a-f]{8}$", "/<hash>", tag) for tag in written}
    written = {
        re.sub(rf"^gradients/({names})$", "gradients/<parameter>", tag)
        for tag in written
    }
    assert documented == written - {"hp_metric", "epoch"}


def test_writes_come_at_the_log_cadence_in_one_event_each(tmp_path: Path) -> None:
    fit(tmp_path, GradGuard(), log_every_n_steps=8)

    points = events(tmp_path / "run").Scalars("gradguard/total_before")
    assert [point.step for point in points] == [7, 15, 19]


def test_every_evaluation_is_kept_where_a_batch_has_more_than_an_interval(
    tmp_path: Path,
) -> None:
    model = Net(optimizer=lambda p: torch.optim.LBFGS(p, 0.01, max_iter=5))

    fit(tmp_path, GradGuard(), model=model, log_every_n_steps=2)

    run = read_run(tmp_path / "run")
    assert run.steps.tolist() == list(range(len(run.steps)))
    assert len(run.steps) > 2 * 20
    assert np.isfinite(run.loss).all()


def test_every_step_is_kept_where_the_trainer_logs_nothing(tmp_path: Path) -> None:
    fit(tmp_path, GradGuard(), log_every_n_steps=0)

    assert len(read_run(tmp_path / "run").steps) == 20


class Spike(Net):
    """A net whose loss is a thousand times itself at one step, or NaN at another."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        return loss * {13: 1000.0, 17: torch.nan}.get(batch_idx, 1.0)


def test_thinning_never_loses_a_spike(tmp_path: Path) -> None:
    spike = Spike(optimizer=lambda p: torch.optim.SGD(p, 0.0))

    fit(tmp_path, GradGuard(every_n_steps=10), model=spike, log_every_n_steps=20)

    run = read_run(tmp_path / "run")
    # The NaN of step 17 is written at once; 18 is the first of the next interval.
    assert run.steps.tolist() == [0, 10, 13, 17, 18]
    assert run.nonfinite.tolist() == [False, False, False, True, True]


def test_an_exceptional_step_is_written_at_once(tmp_path: Path) -> None:
    spike = Spike(optimizer=lambda p: torch.optim.SGD(p, 0.0))

    fit(tmp_path, GradGuard(), model=spike)

    points = events(tmp_path / "run").Scalars("gradguard/total_before")
    assert [point.step for point in points] == [4, 9, 13, 17, 19]


def test_an_exception_leaves_every_step_on_disk_and_no_hook(tmp_path: Path) -> None:
    model, guard = Failing(), GradGuard()
    runner = trainer(tmp_path, guard, log_every_n_steps=20)

    with pytest.raises(RuntimeError, match="no more batches"):
        runner.fit(model)

    assert read_run(tmp_path / "run").steps.tolist() == list(range(12))
    assert not runner.optimizers[0]._optimizer_step_pre_hooks


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


def test_callback_copies_and_pickles_also_in_mid_fit(tmp_path: Path) -> None:
    copies: list[GradGuard] = []

    class Copy(Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            copies.append(copy.deepcopy(guard))
            copies.append(pickle.loads(pickle.dumps(guard)))

    guard = GradGuard(clip=ClipNorm(0.1))
    fit(tmp_path / "one", guard, Copy(), max_steps=1)
    fit(tmp_path / "two", copies[0])
    fit(tmp_path / "three", copies[1])

    two, three = (read_run(tmp_path / name / "run") for name in ("two", "three"))
    np.testing.assert_array_equal(two.after, three.after)
