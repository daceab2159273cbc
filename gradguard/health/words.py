"""How findings speak: of parameters and of steps."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gradguard.records.records import Records


def named(names: Sequence[str]) -> str:
    """Return a few names in words.

    Example:
        >>> named(["a", "b", "c", "d", "e"])
        'a, b, c and 2 more'
    """
    most = 3
    if len(names) == 1:
        return names[0]
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return f"{', '.join(names[:-1])} and {names[-1]}"


def chosen(records: Records, which: NDArray[np.bool_]) -> list[str]:
    """Return the names of the parameters that `which` `[P]` is true of."""
    return [records.names[column] for column in np.flatnonzero(which)]


def share(flags: NDArray[np.bool_]) -> str:
    """Return how many steps of all it is true of.

    Example:
        >>> share(np.array([True, False, False]))
        '1 of 3 steps'
    """
    return f"{int(flags.sum())} of {len(flags)} step{'s' * (len(flags) != 1)}"
