"""A run directory in, numpy arrays out. Needs neither torch nor a TensorBoard process."""

import struct
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_INT64

from gradguard.record import MISSING, Floats, Records, from_stored
from gradguard.tensorboard import tags
from gradguard.tensorboard.tags import Schema

# A record of an event file is: length (8 bytes), its checksum (4), data, checksum (4).
_HEADER = struct.Struct("<QI")
_FOOTER_BYTES = 4


def read_run(path: str | Path, optimizer: str | None = None) -> Records:
    """Return everything gradguard recorded in a run directory.

    Steps are sorted; of a step written twice (a resumed run) the last write counts; a
    last record cut short by a crash is left out.

    Args:
        path: The run's directory (`.../version_0`), the one that holds the event files.
        optimizer: Whose records, where the run has several optimizers.

    Raises:
        ValueError: If the directory holds no records of gradguard, or those of several
            optimizers and none, or none of them, is named.
    """
    runs = read_optimizers(path)
    if optimizer is None and len(runs) == 1:
        return next(iter(runs.values()))
    if optimizer not in runs:
        raise ValueError(
            f"optimizer must be one of {', '.join(map(repr, sorted(runs)))} in {path}, "
            f"got {optimizer!r}"
        )
    return runs[optimizer]


def read_optimizers(path: str | Path) -> dict[str, Records]:
    """Return the records of a run directory by optimizer; a single one is called "".

    Raises:
        ValueError: If the directory holds no records of gradguard.
    """
    writes: dict[str, list[_Write]] = {}
    for file in sorted(Path(path).glob("*tfevents*")):
        for write in _writes(file):
            writes.setdefault(write.schema.optimizer, []).append(write)
    if not writes:
        raise ValueError(
            f"no records of gradguard in {path}: expected the directory of a run that "
            "was trained with GradGuard and a TensorBoardLogger"
        )
    return {optimizer: _join(parts) for optimizer, parts in writes.items()}


class _Write(NamedTuple):
    """One buffer as it was written: `K` steps of `P` parameters."""

    schema: Schema
    steps: NDArray[np.int64]
    norms: Floats
    loss: Floats


def _writes(file: Path) -> Iterator[_Write]:
    """Yield what each of our events in a file holds."""
    schemas: dict[str, Schema] = {}
    marker = tags.NORMS.encode()
    for data in _payloads(file):
        if marker not in data:
            continue
        values = {value.tag: value for value in Event.FromString(data).summary.value}
        for tag, value in values.items():
            if not tag.startswith(tags.NORMS):
                continue
            if value.metadata.plugin_data.content:
                schemas[tag] = Schema.decode(value.metadata.plugin_data.content)
            schema = schemas[tag]
            norms, steps, loss = (
                _array(values[schema.tag(kind)].tensor)
                for kind in (tags.NORMS, tags.STEPS, tags.LOSS)
            )
            yield _Write(schema, steps, norms, loss)


def _payloads(file: Path) -> Iterator[bytes]:
    """Yield the data of every whole record.

    Checksums are not looked at: in Python they would take forty times as long as all
    the rest, and a file that ends early is found out by its lengths.
    """
    content = file.read_bytes()
    position = 0
    while position + _HEADER.size <= len(content):
        length, _ = _HEADER.unpack_from(content, position)
        start = position + _HEADER.size
        position = start + length + _FOOTER_BYTES
        if position > len(content):
            return
        yield content[start : start + length]


def _array(tensor: TensorProto) -> NDArray[Any]:
    dtype = np.int64 if tensor.dtype == DT_INT64 else np.float32
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    return np.frombuffer(tensor.tensor_content, dtype).reshape(shape)


def _join(writes: list[_Write]) -> Records:
    """Put one optimizer's writes in order, over the union of their parameters."""
    names = tuple(
        dict.fromkeys(name for write in writes for name in write.schema.names)
    )
    parts = [
        _spread(schema, list(group), names)
        for schema, group in groupby(writes, key=lambda write: write.schema)
    ]
    steps, norms, loss = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    # Sorting is stable, so the last of equal steps is the one written last.
    order = np.argsort(steps, kind="stable")
    last = np.append(np.diff(steps[order]) > 0, True)
    kept = order[last]
    return from_stored(names, steps[kept], norms[kept], loss[kept])


def _spread(
    schema: Schema, writes: list[_Write], names: tuple[str, ...]
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
