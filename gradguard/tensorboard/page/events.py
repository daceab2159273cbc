"""Tensors as TensorBoard keeps them, put together again to the events they came in."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorboard.data.provider import TensorDatum

from gradguard.records.recording import Abandoned
from gradguard.records.schema import Schema
from gradguard.tensorboard.history import Dated
from gradguard.tensorboard.join import EpochWrite, SavedWrite, Write

Tensors = Mapping[str, list[TensorDatum]]
"""One kind of tensor that events hold, by the hash of their schema."""


def write_events(
    schemas: list[Schema], *, steps: Tensors, norms: Tensors, loss: Tensors
) -> list[list[Dated]]:
    """Return the events of each schema as they were written.

    Those whose norms have not been read are there without them: they tell where a branch
    begins all the same. Those that do not fit are left out.
    """
    return [
        list(_writes(schema, *(kind[schema.suffix] for kind in (steps, norms, loss))))
        for schema in schemas
    ]


def epoch_events(
    schemas: list[Schema], *, numbers: Tensors, values: Tensors, width: int
) -> list[list[Dated]]:
    """Return the events of each schema that are whole and hold statistics by epoch."""
    return [
        [
            Dated(wall_time, step, EpochWrite(schema, *arrays))
            for (step, wall_time), arrays in _whole(
                numbers[schema.suffix], values[schema.suffix]
            )
            if _fit(arrays, (len(schema.names), width))
        ]
        for schema in schemas
    ]


def saved_events(schemas: list[Schema], files: Tensors) -> list[list[Dated]]:
    """Return the events of each schema that tell where a bad step is saved."""
    return [
        [
            Dated(datum.wall_time, datum.step, SavedWrite(schema, text.decode()))
            for datum in files[schema.suffix]
            for text in datum.numpy.tolist()
        ]
        for schema in schemas
    ]


def told(schemas: list[Schema], tensors: Tensors) -> tuple[Abandoned, ...] | None:
    """Return the branches that the newest session found abandoned; None if none did."""
    found = [
        (datum.wall_time, datum.numpy)
        for schema in schemas
        for datum in tensors[schema.suffix]
        if datum.numpy.ndim == 2 and datum.numpy.shape[1] == 2  # noqa: PLR2004 (its fields)
    ]
    if not found:
        return None
    _, newest = max(found, key=lambda entry: entry[0])
    return tuple(Abandoned(*branch) for branch in newest.tolist())


def _writes(
    schema: Schema,
    steps: list[TensorDatum],
    norms: list[TensorDatum],
    loss: list[TensorDatum],
) -> Iterator[Dated]:
    read = _by_event(norms)
    for event, (numbers, of_loss) in _whole(steps, loss):
        wanted = event in read
        size = (numbers.size, len(schema.names), 2)
        values = read.get(event, np.broadcast_to(np.float32(0), size))
        if _fit([numbers, values, of_loss], (len(schema.names), 2)):
            write = Write(schema, numbers, values, of_loss)
            step, wall_time = event
            yield Dated(wall_time, step, write if wanted else Write(schema, numbers))


def _whole(
    *kinds: list[TensorDatum],
) -> Iterator[tuple[tuple[int, float], list[NDArray[Any]]]]:
    """Yield the date and the arrays of every event that has one of each kind."""
    held = [_by_event(kind) for kind in kinds]
    for event in held[0]:
        if all(event in of_kind for of_kind in held):
            yield event, [of_kind[event] for of_kind in held]


def _by_event(kind: list[TensorDatum]) -> dict[tuple[int, float], NDArray[Any]]:
    return {(datum.step, datum.wall_time): datum.numpy for datum in kind}


def _fit(arrays: Sequence[NDArray[Any]], columns: tuple[int, int]) -> bool:
    numbers, values, *others = arrays
    rows = (numbers.size,)
    return values.shape == rows + columns and all(
        array.shape == rows for array in (numbers, *others)
    )
