"""The buffers a run was written in, put together to its recording."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gradguard.record import MISSING, Floats, Records, from_stored
from gradguard.recording import ClipInForce, Recording
from gradguard.tensorboard.tags import Schema


class Write(NamedTuple):
    """One buffer as it was written: `K` steps of `P` parameters.

    Attributes:
        schema: What the columns mean.
        steps: Optimizer steps completed before each, `[K]`.
        norms: Before and after, `[K, P, 2]`; negative where there is no gradient.
        loss: `[K]`.
    """

    schema: Schema
    steps: NDArray[np.int64]
    norms: Floats
    loss: Floats


def join(writes: list[Write]) -> Recording:
    """Put one optimizer's writes in order, over the union of their parameters.

    Args:
        writes: At least one, in the order they were made: of a step written twice, the
            last counts.
    """
    unoptimized = writes[-1].schema.unoptimized
    return Recording(_records(writes), _clips(writes), unoptimized)


def _records(writes: list[Write]) -> Records:
    # The newest list leads: parameters are added in mid-fit, in their place in the model.
    names = tuple(
        dict.fromkeys(name for write in reversed(writes) for name in write.schema.names)
    )
    parts = [
        _spread(schema, list(group), names)
        for schema, group in groupby(writes, key=lambda write: write.schema)
    ]
    steps, norms, loss = map(_concatenated, zip(*parts, strict=True))
    if (np.diff(steps) <= 0).any():
        # Sorting is stable, so the last of equal steps is the one written last.
        order = np.argsort(steps, kind="stable")
        kept = order[np.append(np.diff(steps[order]) > 0, True)]
        steps, norms, loss = steps[kept], norms[kept], loss[kept]
    return from_stored(names, steps, norms, loss)


def _spread(
    schema: Schema, writes: list[Write], names: tuple[str, ...]
) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Concatenate writes of one schema, its parameters moved to their place in `names`."""
    steps = np.concatenate([write.steps for write in writes])
    norms = np.concatenate([write.norms for write in writes])
    loss = np.concatenate([write.loss for write in writes])
    if schema.names != names:
        columns = [names.index(name) for name in schema.names]
        wide = np.full((len(norms), len(names), 2), MISSING, np.float32)
        wide[:, columns] = norms
        norms = wide
    return steps, norms, loss


def _clips(writes: list[Write]) -> tuple[ClipInForce, ...]:
    """Return at which steps the clip changed, and to what."""
    clips: list[ClipInForce] = []
    for write in writes:
        if write.steps.size and (not clips or clips[-1].text != write.schema.clip):
            clips.append(ClipInForce(int(write.steps[0]), write.schema.clip))
    return tuple(clips)


def _concatenated(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Concatenate, without the copy where there is nothing to add."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
