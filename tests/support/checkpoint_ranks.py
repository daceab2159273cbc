"""What each process of `test_checkpoint_ranks.py` runs: weights ruined on one rank only.

python -m torch.distributed.run --nproc-per-node 2 -m tests.support.checkpoint_ranks DIRECTORY
"""

import json
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from typing_extensions import override

from gradguard import GradGuard
from gradguard.gradients.sharding import local
from tests.support.ranks import CPUFSDP, MODES, STEPS, Net, fsdp2, tp
from tests.support.trainers import QUIET

RUIN = 2  # batch
BAD_RANK = 1
STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "ddp": DDPStrategy,
    "fsdp1": partial(CPUFSDP, state_dict_type="sharded"),
    "fsdp2": fsdp2,
    "fsdp2-full": partial(
        ModelParallelStrategy, 2, 1, save_distributed_checkpoint=False
    ),
    "tp": tp,
}


class Ruin(Callback):
    """Ruins what one rank holds of the weights."""

    @override
    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == RUIN and trainer.global_rank == BAD_RANK:
            with torch.no_grad():
                for parameter in module.parameters():
                    local(parameter).fill_(torch.nan)


def fit(directory: Path, name: str) -> None:
    save = ModelCheckpoint(directory / name, every_n_train_steps=1)
    guard = GradGuard(on_nonfinite="skip", max_consecutive_skips=50)
    runner = Trainer(
        **QUIET | {"enable_checkpointing": True},
        max_steps=STEPS,
        devices=2,
        strategy=STRATEGIES[name](),
        callbacks=[guard, Ruin(), save],
        logger=False,
    )
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        runner.fit(Net(MODES["ddp"]))
    told = [str(one.message) for one in said if "weights are not" in str(one.message)]
    known = {"best": save.best_model_path, "said": told}
    file = directory / f"{name}-{runner.global_rank}.json"
    file.write_text(json.dumps(known))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for strategy in STRATEGIES:
        fit(Path(sys.argv[1]), strategy)
