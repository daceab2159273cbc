"""What only an accelerator can show: no step waits for it, and fp16 overflows for real."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from gradguard import (
    ByName,
    ClipNorm,
    GradGuard,
)
from gradguard.clipping.policy import Policy
from gradguard.data.batches import Batches
from gradguard.fit.context import context
from gradguard.fit.parts import Parts
from gradguard.fit.recorder import StepRecorder
from gradguard.fit.wanted import Wanted
from gradguard.gradients.columns import ParameterColumns
from gradguard.gradients.sharding import Shards
from gradguard.records.schema import Schema
from gradguard.tensorboard.reader import read_run
from tests.support.clips import of_the_table

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device, and there is none"
)

STEPS = 12


class Net(LightningModule):
    """Three layers, and a loss whose scaled gradient overflows float16 at first."""

    def __init__(self, *, fused: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
        self.fused = fused

    def training_step(self, batch: tuple[Tensor], batch_idx: int) -> Tensor:
        y: Tensor = self.layers(batch[0])
        return 10 * y.float().square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 0.01, fused=self.fused)

    def train_dataloader(self) -> Batches:
        x = torch.randn(4 * STEPS, 8, generator=torch.Generator().manual_seed(0))
        return Batches(x, batch_size=4)


def fit(path: Path, model: Net, guard: GradGuard, **options: Any) -> Any:
    Trainer(
        accelerator="cuda",
        devices=1,
        max_epochs=1,
        log_every_n_steps=5,
        callbacks=[guard],
        logger=TensorBoardLogger(path, name=None, version="run"),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    ).fit(model)
    return read_run(path / "run")


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_fp16_records_the_steps_the_scaler_skips(
    tmp_path: Path, fused: bool, own: bool
) -> None:
    seed_everything(0, verbose=False)
    guard = GradGuard(clip=ClipNorm(0.1) if own else None)

    run = fit(tmp_path, Net(fused=fused), guard, precision="16-mixed")

    applied = run[~run.skipped]
    assert run.skipped.any()  # the first scale, 65536, is too large
    assert run.nonfinite[run.skipped].all()
    assert np.isfinite(applied.before).all()
    if own:
        assert (applied.total_after <= 0.1001).all()


def test_own_clip_gives_the_weights_of_torchs(tmp_path: Path) -> None:
    seed_everything(0, verbose=False)
    ours, theirs = Net(), Net()
    theirs.load_state_dict(ours.state_dict())

    fit(tmp_path / "ours", ours, GradGuard(clip=ClipNorm(0.1)))
    fit(tmp_path / "theirs", theirs, GradGuard(), gradient_clip_val=0.1)

    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other)


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
    net = Net().cuda()
    optimizer = net.configure_optimizers()
    names: dict[Tensor, str] = {
        parameter: name for name, parameter in net.named_parameters()
    }
    columns = ParameterColumns(list(names), names, Shards(list(names), net))
    trainer = Trainer(logger=False, enable_checkpointing=False)
    fit = context(trainer, net, None, Wanted(tuple(policies)), log=True)
    parts = Parts(columns, Schema(columns.names))
    recorder = StepRecorder(optimizer, fit, lambda _: parts)
    (batch,) = next(iter(net.train_dataloader()))
    loss = net.training_step((batch.cuda(),), 0)
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
