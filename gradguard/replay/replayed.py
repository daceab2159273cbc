"""A bad step as it was, and as it ended when it was run again."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gradguard.names import named
from gradguard.replay.attributes import generators
from gradguard.replay.cause import Cause, Outcome, Precision, Samples
from gradguard.replay.load import BadStep


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """What a replay found out.

    Attributes:
        file: The dump.
        module: Class of the module.
        step: Updates completed before.
        epoch: Of the step, from 0.
        batches: Index in the epoch of each batch of the step.
        loss: Of the last batch, as it was; None if unknown.
        run_precision: Precision of the run, as a Trainer calls it.
        was_finite: Whether all gradients were: the step was bad because it stood out.
        differences: Gradients that are not what they were, a sentence each; none if the
            step was reproduced.
        notes: What may make this run differ from that one, a sentence each.
        outcome: How the step ended this time.
        cause: What broke it; None if nothing did.
        samples: Which samples do it; None where nothing broke or stood out.
        precision: The same step in wider numbers; None if nothing broke.
    """

    file: str
    module: str
    step: int
    epoch: int
    batches: tuple[int, ...]
    loss: float | None
    run_precision: str
    was_finite: bool
    differences: tuple[str, ...]
    notes: tuple[str, ...]
    outcome: Outcome
    cause: Cause | None
    samples: Samples | None
    precision: Precision | None

    @property
    def reproduced(self) -> bool:
        """Whether every gradient is again of the kind it was."""
        return not self.differences

    def document(self) -> dict[str, Any]:
        """Return all of it as what JSON is made of."""
        return {"reproduced": self.reproduced, **asdict(self)}


def facts(bad: BadStep, file: Path) -> dict[str, Any]:
    """Return the fields of `Replayed` that a dump alone gives."""
    return {
        "file": str(file),
        "step": bad.step,
        "epoch": bad.trainer["current_epoch"],
        "batches": tuple(saved["batch_idx"] for saved in bad.batches),
        "loss": bad.loss,
        "run_precision": bad.trainer["precision"],
        "was_finite": bad.is_finite,
    }


def notes(bad: BadStep, module: nn.Module, device: torch.device) -> tuple[str, ...]:
    """Say what may make a module's run on a device differ from the run that was saved."""
    found = [
        f"training_step changes {place} in place, so the dump has it as it was afterwards"
        for saved in bad.batches
        for place in saved["changed"]
    ]
    if bad.weights_moved:
        found.append(
            "the weights were saved after another update of the same batch, the first "
            "batch to make several"
        )
    if own := [*generators(module)]:
        found.append(
            f"the module draws from generators of its own ({named(own)}), whose states "
            "the dump has not"
        )
    then, processes = bad.trainer["device"], bad.trainer["world_size"]
    if torch.device(then).type != device.type:
        found.append(
            f"saved on {then} and run on {device}: other kernels, and other random "
            "numbers, such as those of dropout"
        )
    if processes > 1:
        found.append(
            f"{processes} processes averaged their gradients: what broke may be in the "
            "batch of another, see the dumps of the other ranks"
        )
    if bad.versions["torch"] != torch.__version__:
        found.append(
            f"saved with torch {bad.versions['torch']}, run with {torch.__version__}"
        )
    return tuple(found)
