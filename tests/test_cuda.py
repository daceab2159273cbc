"""What only an accelerator can show: no step waits for it, and fp16 overflows for real."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from typing_extensions import override

from gradguard import (
    ByName,
    ClipNorm,
    GradGuard,
)
from gradguard.clipping.policy import Policy
from gradguard.fit.context import context
from gradguard.fit.parts import Parts
from gradguard.fit.recorder import StepRecorder
from gradguard.fit.wanted import Wanted
from gradguard.gradients.columns import ParameterColumns
from gradguard.gradients.sharding import Shards
from gradguard.records.records import Records
from gradguard.records.schema import Schema
from gradguard.tensorboard.reader import read_run
from tests.support.clips import of_the_table
from tests.support.modules import Net
from tests.support.trainers import Twenty, fit, same_weights, trainer

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device, and there is none"
)


class Scaled(Twenty):
    """Its loss, scaled, has a gradient that overflows float16 at first."""

    @override
    def loss(self, x: Tensor) -> Tensor:
        return 10 * self.output(x).float().square().mean()


def adamw(*, fused: bool = False) -> Any:
    return partial(torch.optim.AdamW, lr=0.01, fused=fused)


def fit_on_cuda(path: Path, *callbacks: Callback, **options: Any) -> Records:
    fit(path, *callbacks, accelerator="cuda", devices=1, **options)
    return read_run(path / "run")


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_fp16_records_the_steps_the_scaler_skips(
    tmp_path: Path, fused: bool, own: bool
) -> None:
    guard = GradGuard(clip=ClipNorm(0.1) if own else None)
    model = Scaled(adamw(fused=fused))

    run = fit_on_cuda(tmp_path, guard, model=model, precision="16-mixed")

    applied = run[~run.skipped]
    assert run.skipped.any()  # the first scale, 65536, is too large
    assert run.nonfinite[run.skipped].all()
    assert np.isfinite(applied.before).all()
    if own:
        assert (applied.total_after <= 0.1001).all()


def test_own_clip_gives_the_weights_of_torchs(tmp_path: Path) -> None:
    ours, theirs = Scaled(adamw()), Scaled(adamw())

    fit_on_cuda(tmp_path / "ours", GradGuard(clip=ClipNorm(0.1)), model=ours)
    fit_on_cuda(tmp_path / "theirs", GradGuard(), model=theirs, gradient_clip_val=0.1)

    assert same_weights(ours, theirs)


@pytest.mark.parametrize(
    "policies",
    [
        [],
        [ClipNorm(0.1)],
        [ByName({"*": ClipNorm(0.1)})],
        *([policy] for policy in of_the_table()),
    ],
    ids=str,
)
def test_no_step_waits_for_the_device(policies: list[Policy]) -> None:
    net = Net(adamw()).cuda()
    optimizer = net.configure_optimizers()
    names: dict[Tensor, str] = {
        parameter: name for name, parameter in net.named_parameters()
    }
    columns = ParameterColumns(list(names), names, Shards(list(names), net))
    lightning = trainer(Path("unused"), logger=False)
    watched = context(lightning, net, None, Wanted(tuple(policies)), log=True)
    parts = Parts(columns, Schema(columns.names))
    recorder = StepRecorder(optimizer, watched, lambda _: parts)
    loss = net.loss(net.batches()[0].cuda())
    loss.backward()  # type: ignore[no-untyped-call]

    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            recorder.take_before()
            recorder.on_update(None)
            recorder.on_batch_end(loss)
    finally:
        torch.cuda.set_sync_debug_mode("default")

    assert recorder.last_step == 2


def test_a_sync_would_be_caught() -> None:
    norm = clip_grad_norm_([nn.Parameter(torch.zeros(2, device="cuda"))], 1.0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="synchroniz"):
            (norm + torch.ones((), device="cuda")).item()
    finally:
        torch.cuda.set_sync_debug_mode("default")
