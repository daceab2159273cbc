"""A recording in, the numbers that sum it up out: of the whole, and by parameter."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gradguard.records.recording import Recording
from gradguard.records.records import Doubles, Flags, Floats, Records
from gradguard.report.view import View


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
        total_before_largest_step: Where that was; None if no total is finite.
        total_before_largest_parameter: Of which gradient most of it is; None as well.
        total_after_largest: Largest L2 norm over all parameters after clipping.
        total_after_largest_step: Where that was; None if no total is finite.
        total_after_largest_parameter: Of which gradient most of it is; None as well.
        smallest_coefficient: Smallest after / before of the total.
        nonfinite_steps: Steps with a NaN or Inf in a gradient.
        first_nonfinite_step: The first of them; None if there is none.
        overflow_steps: Steps whose total before is finite but too large for float32.
        skipped_steps: Steps that the gradient scaler skipped.
        refused_steps: Steps that gradguard skipped.
        loss_known: Whether any step's loss was recorded.
        loss_first: Loss of the first step of which it is finite.
        loss_last: The same of the last.
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
    total_before_largest_step: int | None
    total_before_largest_parameter: str | None
    total_after_largest: float
    total_after_largest_step: int | None
    total_after_largest_parameter: str | None
    smallest_coefficient: float
    nonfinite_steps: int
    first_nonfinite_step: int | None
    overflow_steps: int
    skipped_steps: int
    refused_steps: int
    loss_known: bool
    loss_first: float
    loss_last: float
    first_nonfinite_loss: int | None


def facts(recording: Recording) -> Facts:
    """Return what one optimizer's gradients did."""
    records = recording.records
    before = _finite(records.total_before)
    # NaN stands for "not recorded" too: where there is nothing else, that is what it is.
    loss_known = not np.isnan(records.loss).all()
    losses = _finite(records.loss)
    peak_before = _peak(records, records.before, records.total_before)
    peak_after = _peak(records, records.after, records.total_after)
    return Facts(
        parameters=len(records.names),
        steps=len(records.steps),
        first_step=int(records.steps[0]),
        last_step=int(records.steps[-1]),
        clip_fraction=records.clip_fraction,
        total_before_first=float(before[0]),
        total_before_median=float(np.median(before)),
        total_before_largest=peak_before.total,
        total_before_largest_step=peak_before.step,
        total_before_largest_parameter=peak_before.parameter,
        total_after_largest=peak_after.total,
        total_after_largest_step=peak_after.step,
        total_after_largest_parameter=peak_after.parameter,
        smallest_coefficient=float(_finite(records.coefficient).min()),
        nonfinite_steps=int(records.nonfinite.sum()),
        first_nonfinite_step=_first(records, records.nonfinite),
        overflow_steps=int(records.overflow.sum()),
        skipped_steps=int(records.skipped.sum()),
        refused_steps=int(records.refused.sum()),
        loss_known=loss_known,
        loss_first=float(losses[0]),
        loss_last=float(losses[-1]),
        first_nonfinite_loss=(
            _first(records, ~np.isfinite(records.loss)) if loss_known else None
        ),
    )


class _Peak(NamedTuple):
    """The largest finite total: how large, at which step, mostly of which parameter."""

    total: float
    step: int | None
    parameter: str | None


def _peak(records: Records, norms: Floats, totals: Doubles) -> _Peak:
    finite = np.isfinite(totals)
    if not finite.any():
        return _Peak(np.nan, None, None)
    row = int(np.argmax(np.where(finite, totals, -1)))
    column = int(np.argmax(np.nan_to_num(norms[row])))
    return _Peak(float(totals[row]), int(records.steps[row]), records.names[column])


@dataclass(frozen=True)
class ParameterFacts:
    """One parameter's gradient L2 norms over its finite steps; NaN where there is none.

    Attributes:
        name: Its name.
        before_first: Its norm before clipping, on the first step.
        before_last: The same on the last step.
        before_10: 10th percentile over the steps.
        before_50: Median over the steps.
        before_90: 90th percentile over the steps.
        before_largest: The largest.
        after_50: Median after clipping.
        nonfinite_steps: Steps with a NaN or Inf in its gradient.
        mean_abs_first: Mean |g| over its elements, after clipping, at the first epoch
            that has one; NaN where epochs were not recorded.
        mean_abs_last: The same at the last epoch.
    """

    name: str
    before_first: float
    before_last: float
    before_10: float
    before_50: float
    before_90: float
    before_largest: float
    after_50: float
    nonfinite_steps: int
    mean_abs_first: float
    mean_abs_last: float


def parameter_facts(recording: Recording, view: View) -> list[ParameterFacts]:
    """Return what each parameter in view did on the steps in view, in model order."""
    shown = view.rows(recording)
    names = shown.records.names
    wanted = set(view.names(names))
    return [
        _of_parameter(shown, column, name)
        for column, name in enumerate(names)
        if name in wanted
    ]


def _of_parameter(recording: Recording, column: int, name: str) -> ParameterFacts:
    records = recording.records
    before = _finite(records.before[:, column])
    mean_abs = _finite(_mean_abs(recording, name))
    low, middle, high = np.quantile(before, [0.1, 0.5, 0.9]).tolist()
    return ParameterFacts(
        name,
        before_first=float(before[0]),
        before_last=float(before[-1]),
        before_10=low,
        before_50=middle,
        before_90=high,
        before_largest=float(before.max()),
        after_50=float(np.median(_finite(records.after[:, column]))),
        nonfinite_steps=int(records.nonfinite_gradients[:, column].sum()),
        mean_abs_first=float(mean_abs[0]),
        mean_abs_last=float(mean_abs[-1]),
    )


def _mean_abs(recording: Recording, name: str) -> Floats:
    epochs = recording.epochs
    if epochs is None or name not in epochs.names:
        return np.array([], np.float32)
    return epochs["gradient_mean_abs_after"][:, epochs.names.index(name)]


def _finite(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the finite ones; a NaN if there is none."""
    finite = values[np.isfinite(values)]
    return finite if len(finite) else np.array([np.nan], values.dtype)


def _first(records: Records, steps: Flags) -> int | None:
    return int(records.steps[np.argmax(steps)]) if steps.any() else None
