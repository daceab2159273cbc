"""What one optimizer's parameters are watched with."""

from dataclasses import dataclass

from torch.optim import Optimizer

from gradguard.fit.cautions import clip_data, unoptimized
from gradguard.fit.context import FitContext
from gradguard.fit.epochs import EpochRows
from gradguard.gradients.columns import ParameterColumns, parameters_of
from gradguard.gradients.sharding import Shards
from gradguard.guard.gate import Gate
from gradguard.hooks.takeover import TrainerClip, TrainerClips
from gradguard.hooks.tensor_hooks import BeforeTensorHooks, before_tensor_hooks
from gradguard.records.schema import Schema


@dataclass(frozen=True)
class Parts:
    """What one optimizer's parameters are watched with, made anew when they change.

    Attributes:
        columns: The parameters.
        schema: What the columns of the records mean.
        gate: Stops bad updates; None lets all pass.
        epochs: Measures weights and gradients by epoch; None where nobody asked.
        trainer_clip: Does the Trainer's clip, where that is all that clips.
        hooked: Keeps gradients from before tensor hooks; None where there are none.
    """

    columns: ParameterColumns
    schema: Schema
    gate: Gate | None = None
    epochs: EpochRows | None = None
    trainer_clip: TrainerClip | None = None
    hooked: BeforeTensorHooks | None = None


def parts_of(
    optimizer: Optimizer, fit: FitContext, *, label: str, clips: TrainerClips | None
) -> Parts:
    """Return what the parameters that an optimizer holds now are watched with.

    Args:
        optimizer: Whose.
        fit: The fit.
        label: What its records are called; "" where they are the run's only ones.
        clips: Makes what does the Trainer's clip; None where the Trainer does.
    """
    parameters = parameters_of(optimizer)
    shards = Shards(parameters, fit.module)
    columns = ParameterColumns(parameters, fit.names(), shards)
    wanted = fit.wanted
    return Parts(
        columns,
        schema_of(columns, fit, label=label),
        Gate(optimizer, columns, wanted.guard, fit.dump.save) if wanted.stops else None,
        EpochRows(fit.trainer, optimizer, columns, shards)
        if wanted.layer_statistics
        else None,
        clips(optimizer, columns) if clips else None,
        before_tensor_hooks(parameters),
    )


def schema_of(columns: ParameterColumns, fit: FitContext, *, label: str) -> Schema:
    """Return what columns of records mean in a fit."""
    return Schema(
        columns.names,
        label,
        clip_data(fit.trainer, fit.wanted.policies),
        unoptimized(fit.trainer, fit.module),
    )
