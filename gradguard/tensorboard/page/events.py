"""Tensors as TensorBoard keeps them, put together again to the events they came in."""

from collections.abc import Iterator, Mapping
from typing import Any

from numpy.typing import NDArray
from tensorboard.data.provider import TensorDatum

from gradguard.records.schema import Schema

Kinds = tuple[Mapping[str, list[TensorDatum]], ...]
"""By the hash of their schema, one mapping for each kind of tensor an event holds."""


def in_order(
    schemas: list[Schema], kinds: Kinds, *, width: int
) -> Iterator[tuple[Schema, list[NDArray[Any]]]]:
    """Yield what each event held, if all of it is there and fits, the oldest first.

    Args:
        schemas: Of the events.
        kinds: Tensors by schema: numbers of rows, `[K, P, width]`, then any of `[K]`.
        width: How many numbers a row holds of each parameter.
    """
    whole = [
        (wall_time, schema, arrays)
        for schema in schemas
        for wall_time, arrays in _events([kind[schema.suffix] for kind in kinds])
        if _fit(arrays, (len(schema.names), width))
    ]
    for _, schema, arrays in sorted(whole, key=lambda event: event[0]):
        yield schema, arrays


def _events(
    kinds: list[list[TensorDatum]],
) -> Iterator[tuple[float, list[NDArray[Any]]]]:
    """Yield the time and the arrays of every event that has one of each kind."""
    held = [
        {(datum.step, datum.wall_time): datum.numpy for datum in kind} for kind in kinds
    ]
    for event in held[0]:
        if all(event in of_kind for of_kind in held):
            yield event[1], [of_kind[event] for of_kind in held]


def _fit(arrays: list[NDArray[Any]], columns: tuple[int, int]) -> bool:
    numbers, values, *others = arrays
    rows = (numbers.size,)
    return values.shape == rows + columns and all(
        array.shape == rows for array in (numbers, *others)
    )
