"""What each process of `test_deepspeed.py` runs, as `ranks.py` does for the others.

python -m torch.distributed.run --nproc-per-node 2 -m tests.support.deepspeed_ranks DIRECTORY MODE...
"""

import sys
import warnings
from importlib import import_module
from pathlib import Path

import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, ParallelStrategy, Strategy
from torch import Tensor
from typing_extensions import override

import gradguard.fit.context
from gradguard.fit.loggers import Loggers
from tests.support import ranks
from tests.support.ranks import KeepOnEveryRank, Mode, Net, fit


class CPUDeepSpeed(DeepSpeedStrategy):
    """DeepSpeed on the CPU, which Lightning refuses by name and DeepSpeed does not."""

    def __init__(self, stage: int) -> None:
        zero = {"stage": stage, "reduce_bucket_size": 1000}
        config = {"zero_allow_untested_optimizer": True, "zero_optimization": zero}
        super().__init__(
            config=config,
            process_group_backend="gloo",
            initial_scale_power=6,  # so that no step of these overflows
            loss_scale_window=2,  # and the scale grows among them
        )

    @property
    @override
    def root_device(self) -> torch.device:
        return torch.device("cpu", self.local_rank)

    @override
    def setup_environment(self) -> None:
        ParallelStrategy.setup_environment(self)

    @override
    def setup_distributed(self) -> None:
        self.set_world_ranks()
        self._init_deepspeed_distributed()


def zero0() -> Strategy:
    return CPUDeepSpeed(0)


def zero1() -> Strategy:
    return CPUDeepSpeed(1)


def zero2() -> Strategy:
    return CPUDeepSpeed(2)


def zero3() -> Strategy:
    return CPUDeepSpeed(3)


STAGES = (zero0, zero1, zero2, zero3)
ENGINES = {
    name: mode
    for stage in STAGES
    for name, mode in {
        f"{stage.__name__}": Mode(stage),
        f"{stage.__name__}-norm": Mode(stage, "norm"),
        f"{stage.__name__}-accumulate": Mode(stage, accumulate=2),
        f"{stage.__name__}-norm-accumulate": Mode(stage, "norm", accumulate=2),
        f"{stage.__name__}-bf16": Mode(stage, "norm", precision="bf16-mixed"),
    }.items()
} | {
    # Not ZeRO-0, where the engine divides gradients by a scale they never had.
    f"{stage.__name__}-fp16{suffix}": Mode(stage, clip, precision="16-mixed")
    for stage in STAGES[1:]
    for suffix, clip in (("", ""), ("-norm", "norm"))
}

# Launched each by itself.
SKIPS = {"zero2-skips": Mode(zero2, "norm")}
REFUSED = {"zero2-own": Mode(zero2, "norm", own=True)}

SKIPPED_STEP = 1
GROWTH_STEP = 2  # after which 16-mixed has twice the loss scale


class Spoiled(Net):
    """A step of which has no finite gradient; the engine leaves it out."""

    @override
    def loss(self, x: Tensor) -> Tensor:
        loss = super().loss(x)
        return loss * torch.inf if self.trainer.global_step == SKIPPED_STEP else loss


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    ranks.MODES.update(ENGINES | SKIPS | REFUSED)
    # For this process only. Torch has float16 on any CPU, oneDNN on some.
    accelerator = import_module("deepspeed.accelerator").get_accelerator()
    accelerator.is_fp16_supported = lambda: True
    setattr(gradguard.fit.context, Loggers.__name__, KeepOnEveryRank)
    for mode_name in sys.argv[2:]:
        setattr(ranks, Net.__name__, Spoiled if mode_name in SKIPS else Net)
        fit(Path(sys.argv[1]), mode_name)
