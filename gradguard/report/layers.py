"""A recording in, what the gradient of each parameter did out."""

from dataclasses import dataclass

import numpy as np

from gradguard.records.recording import Recording
from gradguard.records.records import Floats


@dataclass(frozen=True)
class Layer:
    """One parameter's gradient L2 norms over its finite steps; NaN where there is none.

    Attributes:
        name: Of the parameter.
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


def layers(recording: Recording) -> list[Layer]:
    """Return what each parameter's gradient did, in model order."""
    names = recording.records.names
    return [_layer(recording, column, name) for column, name in enumerate(names)]


def _layer(recording: Recording, column: int, name: str) -> Layer:
    records = recording.records
    before = _finite(records.before[:, column])
    mean_abs = _finite(_mean_abs(recording, name))
    low, middle, high = np.quantile(before, [0.1, 0.5, 0.9]).tolist()
    return Layer(
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


def _finite(values: Floats) -> Floats:
    """Return the finite ones; a NaN if there is none."""
    finite = values[np.isfinite(values)]
    return finite if len(finite) else np.array([np.nan], np.float32)
