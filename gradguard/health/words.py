"""How findings speak: of parameters and of steps."""

import math

import numpy as np
from numpy.typing import NDArray

from gradguard.records.records import Records

# From here on only the power of ten is of interest.
_HUGE = 1e5


def chosen(records: Records, which: NDArray[np.bool_]) -> list[str]:
    """Return the names of the parameters that `which` `[P]` is true of."""
    return [records.names[column] for column in np.flatnonzero(which)]


def share(flags: NDArray[np.bool_]) -> str:
    """Return how many steps of all it is true of.

    Examples:
        >>> share(np.array([True, False, False]))
        '1 of 3 steps'
    """
    return f"{int(flags.sum())} of {len(flags)} step{'s' * (len(flags) != 1)}"


def fold(factor: float) -> str:
    """Return how often something has multiplied; of what is huge the power of ten.

    Examples:
        >>> fold(45.6), fold(4.67e29), fold(math.inf)
        ('46-fold', '10^30-fold', 'from nothing')
    """
    if factor == math.inf:
        return "from nothing"
    if factor < _HUGE:
        return f"{float(f'{factor:.2g}'):g}-fold"
    return f"10^{round(math.log10(factor))}-fold"
