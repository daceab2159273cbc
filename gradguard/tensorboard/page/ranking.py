"""Which parameters are worth a look before the others."""

import numpy as np

from gradguard.records.records import Doubles
from gradguard.tensorboard.page.library import LoadedRun


def worst_first(run: LoadedRun) -> list[int]:
    """Return all parameters, `[P]`: who was not finite, by when, then who rose highest.

    Of those that were not finite from the same step on, and of those that always were
    finite, the one that rose highest above its own median comes first.
    """
    bad = run.records.nonfinite_gradients
    first_bad = np.where(bad.any(axis=0), np.argmax(bad, axis=0), len(bad))
    order: list[int] = np.lexsort((-rise(run), first_bad)).tolist()
    return order


def rise(run: LoadedRun) -> Doubles:
    """Return max(before) / median(before) of each parameter, `[P]`, over finite norms."""
    before = run.records.before
    largest = np.where(np.isfinite(before), before, 0).max(axis=0)
    return np.asarray(largest / run.median_before, np.float64)
