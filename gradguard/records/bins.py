"""Many steps in, few points to draw out: each bin of neighbouring steps gives one.

All bins but the last are equally wide. Arrays are over steps, `[S]` with S > 0; of the
results `[B]`, `B` is at most `bins`.
"""

import numpy as np
from numpy.typing import NDArray

from gradguard.records.records import Doubles, Flags


def bin_width(size: int, bins: int) -> int:
    """Return how many of `size` steps share a bin, ceil(size / bins)."""
    return -(-size // bins)


def bin_starts(size: int, bins: int) -> NDArray[np.intp]:
    """Return where each bin starts: 0, w, 2 w, ... below `size`, with w the width.

    Widths that differ by one would cost the browser its fast way of drawing.
    """
    return np.arange(0, size, bin_width(size, bins))


def largest(values: NDArray[np.floating], bins: int) -> NDArray[np.floating]:
    """Return each bin's largest finite value, `[B]`; NaN where there is none."""
    finite = np.where(np.isfinite(values), values, np.nan)
    return np.asarray(np.fmax.reduceat(finite, bin_starts(len(values), bins)))


def smallest(values: NDArray[np.floating], bins: int) -> NDArray[np.floating]:
    """Return each bin's smallest finite value, `[B]`; NaN where there is none."""
    return -largest(-values, bins)


def first_true(flags: Flags, bins: int) -> NDArray[np.intp]:
    """Return the first true position of each bin that has one."""
    true = np.flatnonzero(flags)
    _, first = np.unique(true // bin_width(len(flags), bins), return_index=True)
    return true[first]


def shares(flags: Flags, bins: int) -> Doubles:
    """Return the share of each bin's steps that are true, `[B]`, 0 to 1."""
    starts = bin_starts(len(flags), bins)
    counts = np.diff(np.append(starts, len(flags)))
    return np.asarray(np.add.reduceat(flags.astype(int), starts) / counts)
