"""A run's records: what was measured at every optimizer step, and what follows from it."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gradguard.records.shown import Shown

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Flags = NDArray[np.bool_]

# Stands for "this parameter has no gradient" wherever norms are stored: a norm is never
# negative, and NaN is taken, it is the norm of a gradient that holds a NaN.
MISSING = -1.0

# Stands in `after` for "gradguard kept this gradient from the update".
REFUSED = -2.0

# A clip that leaves every norm within this of what it was did not fire: at a norm of
# exactly max_norm, torch still multiplies by max_norm / (max_norm + 1e-6).
_SAME = 1e-6

# Above this a float32 sum of squares is Inf though every element is finite.
LARGEST_FLOAT32_NORM = float(np.sqrt(np.finfo(np.float32).max))


@dataclass(frozen=True, eq=False)
class Records(Shown):
    """What gradguard saw at `S` optimizer steps of `P` parameters.

    Attributes:
        names: Parameter names in model order, `[P]`.
        steps: Optimizer steps completed before the recorded one, increasing, `[S]`.
        before: L2 norm of each gradient before clipping, `[S, P]`; NaN where the
            parameter has no gradient, and where its gradient holds a NaN.
        after: The same the instant before the update, `[S, P]`; NaN also where there was
            no update, because the gradient scaler or gradguard skipped the step.
        missing: True where the parameter has no gradient, `[S, P]`.
        skipped: True where the gradient scaler skipped the step, `[S]`.
        refused: True where gradguard skipped the step (`on_nonfinite`), `[S]`.
        loss: Loss of the step's last batch, `[S]`; NaN where it is not known.
    """

    names: tuple[str, ...]
    steps: NDArray[np.int64]
    before: Floats
    after: Floats
    missing: Flags
    skipped: Flags
    refused: Flags
    loss: Floats

    def __repr__(self) -> str:
        return (
            f"Records({len(self.steps)} steps of {len(self.names)} parameters, "
            f"{int(self.clipped.sum())} clipped, {int(self.nonfinite.sum())} non-finite)"
        )

    @cached_property
    def total_before(self) -> Doubles:
        """L2 norm over all parameters before clipping, `[S]`."""
        return _total(self.before, self.missing)

    @cached_property
    def total_after(self) -> Doubles:
        """L2 norm over all parameters the instant before the update, `[S]`."""
        return _total(self.after, self.missing)

    @cached_property
    def coefficient(self) -> Doubles:
        """total_after / total_before, `[S]`: 1 where nothing clipped, NaN if non-finite."""
        with np.errstate(invalid="ignore"):
            return np.where(
                self.total_before == 0,
                1.0,
                self.total_after / np.where(self.total_before, self.total_before, 1.0),
            )

    @cached_property
    def clipped_gradients(self) -> Flags:
        """Whether the clip fired on each gradient: after < before * (1 - 1e-6), `[S, P]`."""
        return self.after < self.before * np.float32(1 - _SAME)

    @cached_property
    def clipped(self) -> Flags:
        """Whether the clip fired on some gradient, `[S]`."""
        return np.asarray(self.clipped_gradients.any(axis=1))

    @cached_property
    def nonfinite_gradients(self) -> Flags:
        """Whether each gradient held a NaN or an Inf before clipping, `[S, P]`.

        Also on steps the gradient scaler skipped, for this is why it did.
        """
        return ~np.isfinite(self.before) & ~self.missing

    @cached_property
    def nonfinite(self) -> Flags:
        """Whether some gradient held a NaN or an Inf before clipping, `[S]`."""
        return np.asarray(self.nonfinite_gradients.any(axis=1))

    @cached_property
    def overflow(self) -> Flags:
        """Whether the total is finite but too large for float32 arithmetic, `[S]`."""
        return ~self.nonfinite & (self.total_before > LARGEST_FLOAT32_NORM)

    @property
    def clip_fraction(self) -> float:
        """Share of the recorded steps on which the clip fired, 0 to 1; NaN if none."""
        return float(self.clipped.mean()) if len(self.steps) else float("nan")

    def __getitem__(self, rows: slice | Flags | NDArray[np.intp]) -> "Records":
        """Return the records of some steps only."""
        return Records(
            self.names,
            self.steps[rows],
            self.before[rows],
            self.after[rows],
            self.missing[rows],
            self.skipped[rows],
            self.refused[rows],
            self.loss[rows],
        )


def thinned(records: Records, every_n_steps: int) -> Records:
    """Keep every n-th step, and the largest and the first non-finite among them all.

    However large n is, no spike is lost.
    """
    if every_n_steps == 1:
        return records
    keep: Flags = records.steps % every_n_steps == 0
    if len(keep):
        keep[np.argmax(np.nan_to_num(records.total_before, nan=0.0))] = True
        keep[np.argmax(records.nonfinite)] |= records.nonfinite.any()
    return records[keep]


def from_stored(
    names: tuple[str, ...],
    steps: NDArray[np.int64],
    norms: Floats,
    loss: Floats,
) -> Records:
    """Unpack norms `[S, P, 2]` (before, after), where a negative means no gradient.

    A gradient before and none after is one the gradient scaler kept from the update, or
    gradguard, whose mark is REFUSED.
    """
    missing, unapplied = np.moveaxis(norms < 0, -1, 0)
    refused = (norms[:, :, 1] == REFUSED).any(axis=1)
    skipped = (unapplied & ~missing).any(axis=1) & ~refused
    visible = np.where(norms < 0, np.float32(np.nan), norms)
    before, after = np.moveaxis(visible, -1, 0)
    return Records(names, steps, before, after, missing, skipped, refused, loss)


def to_stored(records: Records) -> Floats:
    """Pack before and after into one array `[S, P, 2]`, the inverse of `from_stored`."""
    norms = np.stack([records.before, records.after], axis=-1)
    norms[records.missing] = MISSING
    norms[records.skipped, :, 1] = MISSING
    norms[records.refused, :, 1] = REFUSED
    return norms


def _total(norms: Floats, missing: Flags) -> Doubles:
    squares = np.square(norms, dtype=np.float64)
    squares[missing] = 0.0
    total: Doubles = np.sqrt(squares.sum(axis=1))
    return total
