"""A recording in, the numbers that sum it up out."""

from dataclasses import dataclass

import numpy as np

from gradguard.records.recording import Recording
from gradguard.records.records import Doubles, Flags, Records


@dataclass(frozen=True)
class Facts:
    """What the gradients of one optimizer did. Norms are of its finite steps, else NaN.

    Attributes:
        parameters: How many.
        steps: How many are recorded.
        first_step: Optimizer steps completed before the first recorded one.
        last_step: The same before the last recorded one.
        clip_fraction: Share of the recorded steps on which the clip fired, 0 to 1.
        total_before_first: L2 norm over all parameters before clipping.
        total_before_median: The same, median over the steps.
        total_before_largest: The same, largest.
        total_after_largest: Largest L2 norm over all parameters after clipping.
        smallest_coefficient: Smallest after / before of the total.
        nonfinite_steps: Steps with a NaN or Inf in a gradient.
        first_nonfinite_step: The first of them; None if there is none.
        overflow_steps: Steps whose total before is finite but too large for float32.
        skipped_steps: Steps that the gradient scaler skipped.
        refused_steps: Steps that gradguard skipped.
        loss_known: Whether any step's loss was recorded.
        first_nonfinite_loss: First step whose loss is NaN or Inf; None if there is none.
    """

    parameters: int
    steps: int
    first_step: int
    last_step: int
    clip_fraction: float
    total_before_first: float
    total_before_median: float
    total_before_largest: float
    total_after_largest: float
    smallest_coefficient: float
    nonfinite_steps: int
    first_nonfinite_step: int | None
    overflow_steps: int
    skipped_steps: int
    refused_steps: int
    loss_known: bool
    first_nonfinite_loss: int | None


def facts(recording: Recording) -> Facts:
    """Return what one optimizer's gradients did."""
    records = recording.records
    before = _finite(records.total_before)
    # NaN stands for "not recorded" too: where there is nothing else, that is what it is.
    loss_known = not np.isnan(records.loss).all()
    return Facts(
        parameters=len(records.names),
        steps=len(records.steps),
        first_step=int(records.steps[0]),
        last_step=int(records.steps[-1]),
        clip_fraction=records.clip_fraction,
        total_before_first=float(before[0]),
        total_before_median=float(np.median(before)),
        total_before_largest=float(before.max()),
        total_after_largest=float(_finite(records.total_after).max()),
        smallest_coefficient=float(_finite(records.coefficient).min()),
        nonfinite_steps=int(records.nonfinite.sum()),
        first_nonfinite_step=_first(records, records.nonfinite),
        overflow_steps=int(records.overflow.sum()),
        skipped_steps=int(records.skipped.sum()),
        refused_steps=int(records.refused.sum()),
        loss_known=loss_known,
        first_nonfinite_loss=(
            _first(records, ~np.isfinite(records.loss)) if loss_known else None
        ),
    )


def _finite(values: Doubles) -> Doubles:
    """Return the finite ones; a NaN if there is none."""
    finite = values[np.isfinite(values)]
    return finite if len(finite) else np.array([np.nan])


def _first(records: Records, steps: Flags) -> int | None:
    return int(records.steps[np.argmax(steps)]) if steps.any() else None
