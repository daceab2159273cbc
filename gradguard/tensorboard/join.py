"""The buffers a run was written in, put together to its recording."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gradguard.records.recording import (
    Abandoned,
    ClipInForce,
    Epochs,
    Recording,
    SavedStep,
)
from gradguard.records.records import MISSING, Floats, Records, from_stored
from gradguard.records.schema import Schema


class Write(NamedTuple):
    """One buffer as it was written: `K` steps of `P` parameters.

    Attributes:
        schema: What the columns mean.
        steps: Optimizer steps completed before each, `[K]`.
        norms: Before and after, `[K, P, 2]`; negative where there is no gradient. None
            of them where only the steps are of interest.
        loss: `[K]`, or none.
    """

    schema: Schema
    steps: NDArray[np.int64]
    norms: Floats = np.empty((0, 0, 2), np.float32)
    loss: Floats = np.empty(0, np.float32)

    def cut(self, size: int) -> "Write":
        """Return its first steps only."""
        return Write(
            self.schema, self.steps[:size], self.norms[:size], self.loss[:size]
        )


class EpochWrite(NamedTuple):
    """Statistics of `P` parameters at the ends of `E` epochs, as they were written.

    Attributes:
        schema: What the columns mean.
        epochs: -1 before training, then 0, 1, ..., `[E]`.
        values: `[E, P, 6]`, in the order of `gradguard.records.recording.STATISTICS`.
    """

    schema: Schema
    epochs: NDArray[np.int64]
    values: Floats


class SavedWrite(NamedTuple):
    """Where a bad step is saved, as it was written.

    Attributes:
        schema: Whose step.
        file: Where it is.
    """

    schema: Schema
    file: str


def join(
    writes: list[Write],
    epoch_writes: Sequence[EpochWrite] = (),
    abandoned: tuple[Abandoned, ...] = (),
    saved_steps: tuple[SavedStep, ...] = (),
) -> Recording:
    """Put one optimizer's writes in order, over the union of their parameters.

    Args:
        writes: At least one, in the order they were made: of a step written twice, the
            last counts.
        epoch_writes: The same of statistics by epoch, if there are any.
        abandoned: What was left out of them.
        saved_steps: Bad steps that were saved.
    """
    return Recording(
        _records(writes),
        _clips(writes),
        writes[-1].schema.unoptimized,
        _epochs(epoch_writes) if epoch_writes else None,
        abandoned,
        saved_steps,
    )


def _records(writes: list[Write]) -> Records:
    names = _names(write.schema for write in writes)
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
    return steps, _widened(norms, schema, names, MISSING), loss


def _epochs(writes: Sequence[EpochWrite]) -> Epochs:
    names = _names(write.schema for write in writes)
    rows = {
        int(epoch): row
        for schema, epochs, values in writes
        for epoch, row in zip(
            epochs, _widened(values, schema, names, np.nan), strict=True
        )
    }
    numbers = sorted(rows)
    return Epochs(
        names, np.array(numbers, np.int64), np.stack([rows[epoch] for epoch in numbers])
    )


def _names(schemas: Iterable[Schema]) -> tuple[str, ...]:
    # The newest list leads: parameters are added in mid-fit, in their place in the model.
    lists = [schema.names for schema in schemas]
    return tuple(dict.fromkeys(name for names in reversed(lists) for name in names))


def _widened(
    values: Floats, schema: Schema, names: tuple[str, ...], absent: float
) -> Floats:
    """Move columns, the second axis, to their place in `names`."""
    if schema.names == names:
        return values
    wide = np.full((len(values), len(names), values.shape[2]), absent, np.float32)
    wide[:, [names.index(name) for name in schema.names]] = values
    return wide


def _clips(writes: list[Write]) -> tuple[ClipInForce, ...]:
    """Return at which steps the clip changed, and to what."""
    clips: list[ClipInForce] = []
    for write in writes:
        if write.steps.size and (not clips or clips[-1].clip != write.schema.clip):
            clips.append(ClipInForce(int(write.steps[0]), write.schema.clip))
    return tuple(clips)


def _concatenated(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Concatenate, without the copy where there is nothing to add."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
