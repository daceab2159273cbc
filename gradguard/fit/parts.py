"""What one optimizer's parameters are watched with."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch.optim import Optimizer

from gradguard.clipping.adagc import AdaGC
from gradguard.clipping.agc import AdaptiveClip
from gradguard.clipping.by_name import ByName
from gradguard.clipping.fixed import ClipNorm, ClipValue
from gradguard.clipping.learned import AutoClip, ZClip
from gradguard.clipping.policy import Policy
from gradguard.fit.cautions import clip_data, unoptimized
from gradguard.fit.context import FitContext
from gradguard.fit.epochs import EpochRows
from gradguard.fit.wanted import Wanted
from gradguard.gradients.columns import ParameterColumns, parameters_of
from gradguard.gradients.sharding import Shards
from gradguard.guard.gate import Gate
from gradguard.guard.on_device import DeviceGate, is_told_on_device
from gradguard.hooks.takeover import TrainerClip, TrainerClips
from gradguard.hooks.tensor_hooks import BeforeTensorHooks, before_tensor_hooks
from gradguard.records.schema import Schema

# What these have learned, a gradient of norm zero leaves as it is.
_IGNORE_ZEROS = (ClipNorm, ClipValue, AutoClip, ZClip, AdaptiveClip, AdaGC)


@dataclass(frozen=True)
class Parts:
    """What one optimizer's parameters are watched with, made anew when they change.

    Attributes:
        columns: The parameters.
        schema: What the columns of the records mean.
        gate: Stops bad updates; None lets all pass.
        device_gate: Does so without waiting for the device, where that can be.
        epochs: Measures weights and gradients by epoch; None where nobody asked.
        trainer_clip: Does the Trainer's clip, where that is all that clips.
        hooked: Keeps gradients from before tensor hooks; None where there are none.
    """

    columns: ParameterColumns
    schema: Schema
    gate: Gate | None = None
    device_gate: DeviceGate | None = None
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
    guard, statistics = fit.wanted.guard, fit.wanted.layer_statistics
    late = not shards and is_told_on_device(optimizer) and _can_be_late(fit.wanted)
    return Parts(
        columns,
        schema_of(columns, fit, label=label),
        Gate(optimizer, columns, guard, fit.dump.save) if guard.stops else None,
        DeviceGate(optimizer, columns, guard) if guard.stops and late else None,
        EpochRows(fit.trainer, optimizer, columns, shards) if statistics else None,
        clips(optimizer, columns) if clips else None,
        before_tensor_hooks(parameters),
    )


def _can_be_late(wanted: Wanted) -> bool:
    """Whether a bad step need not be known before the next one begins.

    It has to be for a dump, for "raise", and for policies that count a step though the
    norms they are shown of it are zero.
    """
    guard = wanted.guard
    raises = "raise" in (guard.on_nonfinite, guard.on_spike.action)
    return guard.dump_dir is None and not raises and _ignore_zeros(wanted.policies)


def _ignore_zeros(policies: Iterable[Policy]) -> bool:
    return all(
        all(_ignore_zeros(inner) for _, inner in policy.policies)
        if isinstance(policy, ByName)
        else isinstance(policy, _IGNORE_ZEROS)
        for policy in policies
    )


def schema_of(columns: ParameterColumns, fit: FitContext, *, label: str) -> Schema:
    """Return what columns of records mean in a fit."""
    return Schema(
        columns.names,
        label,
        clip_data(fit.trainer, fit.wanted.policies),
        unoptimized(fit.trainer, fit.module),
    )
