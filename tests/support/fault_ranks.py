"""What each process of `test_fault_ranks.py` runs: a fault on one rank, and no fault.

python -m torch.distributed.run --nproc-per-node 2 -m tests.support.fault_ranks DIRECTORY
"""

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from gradguard import AutoClip, GradGuard, Spike, ZClip
from gradguard.clipping.policy import Policy
from gradguard.gradients.sharding import local
from tests.support.ranks import MODES, Net, batch
from tests.support.trainers import QUIET

FAULTY = 5  # batch, of nine
BAD_RANK = 1
POLICIES: dict[str, Policy | None] = {
    "observed": None,
    "auto": AutoClip(30),
    "zclip": ZClip(0.5, warmup=2),
}
CASES = [
    ("ddp", "observed"),
    ("ddp", "auto"),
    ("ddp", "zclip"),
    ("ddp-manual", "observed"),
    ("fsdp2", "observed"),
    ("fsdp2", "auto"),
    ("fsdp1", "zclip"),
    ("tp", "auto"),
]
# Where the fault happens: in the loss, whose gradients all ranks share, or in the
# gradients of one rank once they are shared. "height": of the loss alone, none of whose
# gradients tells.
NAN_FAULTS = ["loss", "gradient"]
SPIKE_FAULTS = ["loss-spike", "gradient-spike", "height-spike"]
FAULTS = ["never", *NAN_FAULTS, *SPIKE_FAULTS]
UNSEEN = {("ddp-manual", "height-spike")}  # no closure tells the loss
FACTOR = 1e6


class Sequence:
    """Batches of one rank; the faulty one is there or not."""

    def __init__(self, data_rank: int, numbers: list[int]) -> None:
        self.data_rank = data_rank
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        return ((number, batch(number, self.data_rank)) for number in self.numbers)


class FaultyNet(Net):
    def __init__(self, mode: Any, fault: str) -> None:
        super().__init__(mode)
        self.fault = fault
        self.number = -1

    def training_step(self, item: tuple[int, Tensor], batch_idx: int) -> Any:  # type: ignore[override] # batches have numbers here
        self.number, x = item
        return super().training_step(x, batch_idx)

    def loss(self, x: Tensor) -> Tensor:
        loss = super().loss(x)
        if self.on_the_spot():
            loss = loss * {"loss": torch.nan, "loss-spike": FACTOR}.get(self.fault, 1)
            loss = loss + {"height-spike": FACTOR}.get(self.fault, 0)
        return loss

    def on_the_spot(self) -> bool:
        return self.number == FAULTY and self.trainer.global_rank == BAD_RANK

    def train_dataloader(self) -> Any:
        rank = super().train_dataloader().data_rank
        numbers = [n for n in range(9) if n != FAULTY or self.fault != "never"]
        return Sequence(rank, numbers)


class Poison(Callback):
    """Spoils the gradients of one rank after they are shared."""

    def on_before_optimizer_step(self, trainer: Any, module: Any, _: Any) -> None:
        factor = {"gradient": torch.inf, "gradient-spike": FACTOR}.get(module.fault, 1)
        if module.on_the_spot():
            for parameter in module.parameters():
                if parameter.grad is not None:  # FSDP1 gives some to one rank only
                    local(parameter.grad).add_(1).mul_(factor)


def fit(directory: Path, mode: str, policy: str, fault: str) -> None:
    name = f"{mode}-{policy}-{fault}"
    guard = GradGuard(
        clip=POLICIES[policy], on_nonfinite="skip", on_spike=Spike(window=8)
    )
    runner = Trainer(
        **QUIET,
        max_epochs=1,
        devices=2,
        strategy=MODES[mode].strategy(),
        callbacks=[guard, Poison()],
        logger=TensorBoardLogger(directory, name=None, version=name),
        log_every_n_steps=3,
    )
    model = FaultyNet(MODES[mode]._replace(clip="norm"), fault)
    runner.fit(model)
    weights = [local(parameter.detach()).clone() for parameter in model.parameters()]
    torch.save(weights, directory / f"{name}-{runner.global_rank}.pt")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for case in CASES:
        for fault_kind in FAULTS:
            if (case[0], fault_kind) not in UNSEEN:
                fit(Path(sys.argv[1]), *case, fault_kind)
