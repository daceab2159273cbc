"""What each process of `test_distributed.py` runs: one fit per mode, in a known order.

python -m torch.distributed.run --nproc-per-node 2 -m tests.support.ranks DIRECTORY MODE...
"""

import sys
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import (
    DDPStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    Strategy,
)
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

import gradguard.fit.context
from gradguard import ClipNorm, ClipValue, GradGuard
from gradguard.clipping.policy import Policy
from gradguard.fit.loggers import Loggers
from gradguard.records.records import Records
from gradguard.records.schema import Schema
from tests.support.trainers import QUIET

STEPS = 4
MICRO_BATCHES = 8


class Mode(NamedTuple):
    """One way to train: who clips how, in which strategy."""

    strategy: Callable[[], Strategy] = DDPStrategy
    clip: str = ""  # norm or value; empty for no clip
    own: bool = False  # gradguard clips, not Lightning
    accumulate: int = 1
    manual: bool = False
    unused: bool = False
    precision: str = "32-true"
    processes: int = 2
    nodes: int = 1


class CPUFSDP(FSDPStrategy):
    """FSDP1 on the CPU, which Lightning refuses by name and torch for want of a device."""

    @contextmanager
    def model_sharded_context(self) -> Generator[None, None, None]:
        yield

    def _setup_model(self, model: nn.Module) -> FullyShardedDataParallel:
        return FullyShardedDataParallel(
            model,
            auto_wrap_policy=ModuleWrapPolicy({nn.Linear}),
            use_orig_params=True,
            device_id=torch.device("cpu"),
        )


def spawn() -> Strategy:  # no lambda, for it travels to the processes
    return DDPStrategy(start_method="spawn")


def fsdp2() -> Strategy:
    return ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)


def tp() -> Strategy:
    return ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=2)


def fsdp2_tp() -> Strategy:
    return ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=2)


MODES = {
    "ddp": Mode(),
    "ddp-norm": Mode(clip="norm"),
    "ddp-value": Mode(clip="value"),
    "ddp-own-norm": Mode(clip="norm", own=True),
    "ddp-own-value": Mode(clip="value", own=True),
    "ddp-accumulate": Mode(clip="norm", accumulate=2),
    "ddp-bucket-view": Mode(
        lambda: DDPStrategy(gradient_as_bucket_view=True), clip="norm"
    ),
    "ddp-static-graph": Mode(lambda: DDPStrategy(static_graph=True), clip="norm"),
    "ddp-find-unused": Mode(
        lambda: DDPStrategy(find_unused_parameters=True), clip="norm", unused=True
    ),
    "ddp-manual": Mode(clip="norm", manual=True),
    "ddp-manual-static-graph": Mode(
        lambda: DDPStrategy(static_graph=True), clip="norm", manual=True
    ),
    "ddp-bf16-mixed": Mode(clip="norm", precision="bf16-mixed"),
    "fsdp2": Mode(fsdp2),
    "fsdp2-norm": Mode(fsdp2, clip="norm"),
    "fsdp2-value": Mode(fsdp2, clip="value"),
    "fsdp2-own-norm": Mode(fsdp2, clip="norm", own=True),
    "fsdp2-own-value": Mode(fsdp2, clip="value", own=True),
    "fsdp2-unused": Mode(fsdp2, clip="norm", own=True, unused=True),
    "fsdp2-bf16-mixed": Mode(fsdp2, clip="norm", precision="bf16-mixed"),
    "tp": Mode(tp),
    "tp-own-norm": Mode(tp, clip="norm", own=True),
    "fsdp1": Mode(CPUFSDP),
    "fsdp1-value": Mode(CPUFSDP, clip="value"),
    "fsdp1-own-norm": Mode(CPUFSDP, clip="norm", own=True),
    "fsdp2-tp": Mode(fsdp2_tp, processes=4),
    "fsdp2-tp-own-norm": Mode(fsdp2_tp, clip="norm", own=True, processes=4),
}

# Launched each in its own way.
ALONE = {
    "ddp-two-nodes": Mode(clip="norm", nodes=2),
    "ddp-spawn": Mode(spawn, clip="norm"),
}

THRESHOLD = {"norm": 0.1, "value": 0.01}


def batch(micro_batch: int, data_rank: int) -> Tensor:
    generator = torch.Generator().manual_seed(100 * micro_batch + data_rank)
    return torch.randn(3, 5, generator=generator)


class Batches:
    """The batches of one rank: no DataLoader, so that Lightning shuffles nothing."""

    def __init__(self, data_rank: int) -> None:
        self.data_rank = data_rank

    def __len__(self) -> int:
        return MICRO_BATCHES

    def __iter__(self) -> Iterator[Tensor]:
        return (batch(i, self.data_rank) for i in range(MICRO_BATCHES))


class Net(LightningModule):
    """Layers whose sizes do not divide evenly among the processes."""

    def __init__(self, mode: Mode) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mode = mode
        self.up = nn.Linear(5, 8)
        self.down = nn.Linear(8, 3)
        self.head = nn.Linear(3, 1)
        if mode.unused:
            self.unused = nn.Linear(3, 3)
        self.automatic_optimization = not mode.manual

    def configure_model(self) -> None:
        if not isinstance(self.trainer.strategy, ModelParallelStrategy):
            return
        mesh = self.device_mesh
        assert mesh is not None
        tensor_mesh, data_mesh = mesh["tensor_parallel"], mesh["data_parallel"]
        if tensor_mesh.size() > 1:
            plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
            parallelize_module(self, tensor_mesh, plan)
        if data_mesh.size() > 1:
            for layer in self.children():
                fully_shard(layer, mesh=data_mesh)
            fully_shard(self, mesh=data_mesh)

    def loss(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.down(self.up(x).tanh()).tanh())
        return y.square().mean()

    def training_step(self, x: Tensor, batch_idx: int) -> Tensor:
        loss = self.loss(x)
        if self.mode.manual:
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            self.clip_gradients(optimizer, THRESHOLD[self.mode.clip], self.mode.clip)
            optimizer.step()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.5, momentum=0.9)

    def train_dataloader(self) -> "Batches":
        rank = self.trainer.global_rank
        if isinstance(self.trainer.strategy, ModelParallelStrategy):
            assert self.device_mesh is not None
            rank = self.device_mesh["data_parallel"].get_local_rank()
        return Batches(rank)


def fit(directory: Path, name: str) -> None:
    mode = (MODES | ALONE)[name]
    policy: dict[str, Policy] = {
        "norm": ClipNorm(THRESHOLD["norm"]),
        "value": ClipValue(THRESHOLD["value"]),
    }
    options: dict[str, Any] = {"max_steps": STEPS}
    if mode.clip and not mode.own and not mode.manual:
        options["gradient_clip_val"] = THRESHOLD[mode.clip]
        options["gradient_clip_algorithm"] = mode.clip
    guard = GradGuard(
        clip=policy[mode.clip] if mode.own else None, layer_statistics=True
    )
    trainer = Trainer(
        **QUIET | options,
        devices=mode.processes // mode.nodes,
        num_nodes=mode.nodes,
        strategy=mode.strategy(),
        precision=mode.precision,  # type: ignore[arg-type] # one of its literals
        accumulate_grad_batches=mode.accumulate,
        callbacks=[guard],
        logger=TensorBoardLogger(directory, name=None, version=name),
        log_every_n_steps=3,
    )
    trainer.fit(Net(mode))


class KeepOnEveryRank(Loggers):
    """Leave behind what each rank has measured, for only rank zero writes."""

    def __init__(self, trainer: Trainer, **options: Any) -> None:
        super().__init__(trainer, **options)
        self.file = f"{trainer.log_dir}-{trainer.global_rank}.npz"
        self.kept: list[Records] = []

    def write(
        self, schema: Schema, records: Records, in_force: Mapping[str, float | Tensor]
    ) -> None:
        super().write(schema, records, in_force)
        self.kept.append(records)
        before, after = (
            np.concatenate([getattr(part, moment) for part in self.kept])
            for moment in ("before", "after")
        )
        np.savez(self.file, names=records.names, before=before, after=after)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    # For this process only.
    setattr(gradguard.fit.context, Loggers.__name__, KeepOnEveryRank)
    for mode_name in sys.argv[2:]:
        fit(Path(sys.argv[1]), mode_name)
