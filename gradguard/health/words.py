"""How findings speak: of parameters and of steps."""

import numpy as np
from numpy.typing import NDArray

from gradguard.records.records import Records


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
