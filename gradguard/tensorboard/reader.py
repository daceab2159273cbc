"""A run directory in, numpy arrays out. Needs neither torch nor a TensorBoard process."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_INT64

from gradguard.record import Records
from gradguard.recording import Recording
from gradguard.tensorboard import tags
from gradguard.tensorboard.join import Write, join
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
    recordings = read_recordings(path)
    return {optimizer: recording.records for optimizer, recording in recordings.items()}


def read_recordings(path: str | Path) -> dict[str, Recording]:
    """Return all that gradguard wrote into a run directory, by optimizer.

    Raises:
        ValueError: If the directory holds no records of gradguard.
    """
    writes: dict[str, list[Write]] = {}
    for file in sorted(Path(path).glob("*tfevents*")):
        for write in _writes(file):
            writes.setdefault(write.schema.optimizer, []).append(write)
    if not writes:
        raise ValueError(
            f"no records of gradguard in {path}: expected the directory of a run that "
            "was trained with GradGuard and a TensorBoardLogger"
        )
    return {optimizer: join(parts) for optimizer, parts in writes.items()}


def _writes(file: Path) -> Iterator[Write]:
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
            yield Write(schema, steps, norms, loss)


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
