"""A run directory in, numpy arrays out. Needs neither torch nor a TensorBoard process."""

import re
import struct
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no types
from numpy.typing import NDArray
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_INT64, DT_STRING
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

from gradguard.records.recording import STATISTICS, Recording
from gradguard.records.records import Records
from gradguard.records.schema import NewerSchemaError, Schema
from gradguard.tensorboard import places, tags
from gradguard.tensorboard.history import Dated, living
from gradguard.tensorboard.join import EpochWrite, SavedWrite, Write, join

# A record of an event file is: length (8 bytes), its checksum (4), data, checksum (4).
_HEADER = struct.Struct("<QI")
_LENGTH_BYTES = 8
_FOOTER_BYTES = 4

# A session log stands third in an event, behind the time (field 1) and the step (2).
_SESSION = re.compile(rb"(\x09.{8})?(\x10[\x80-\xff]*[\x00-\x7f])?\x3a", re.DOTALL)

# By the kind of tensor that leads an event: what it is read as, and from which tensors.
_PARTS: dict[str, tuple[Any, tuple[str, ...]]] = {
    tags.NORMS: (Write, (tags.STEPS, tags.NORMS, tags.LOSS)),
    tags.EPOCHS: (EpochWrite, (tags.EPOCH_NUMBERS, tags.EPOCHS)),
    tags.SAVED_STEP: (SavedWrite, (tags.SAVED_STEP,)),
}


class DamagedFileError(ValueError):
    """An event file holds what this version cannot read: which file, and where or why."""


def read_run(path: str | Path, optimizer: str | None = None) -> Records:
    """Return everything gradguard recorded in a run directory.

    Steps increase: what training went back behind, resumed from an earlier checkpoint or
    purged, is left out (see `gradguard.tensorboard.history`), and so is a last record
    cut short by a crash.

    Args:
        path: The run's directory (`.../version_0`), the one that holds the event files,
            or its URL.
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
        DamagedFileError: If a file of it cannot be understood.
        ValueError: If the directory holds no records of gradguard.
    """
    recordings = {
        optimizer: join(*living(events)) for optimizer, events in history(path).items()
    }
    if not recordings:
        raise ValueError(
            f"no records of gradguard in {path}: expected the directory of a run that "
            "was trained with GradGuard and a TensorBoardLogger"
        )
    return recordings


def history(path: str | Path) -> dict[str, list[Dated]]:
    """Return what was written of each optimizer in a run directory, in that order.

    Events that open a session stand among those of every optimizer.

    Raises:
        DamagedFileError: If a file of it cannot be understood.
    """
    events = chronicle(path)
    optimizers = [
        event.write.schema.optimizer
        for event in events
        if isinstance(event.write, Write)
    ]
    return {
        optimizer: [event for event in events if event.is_of(optimizer)]
        for optimizer in dict.fromkeys(optimizers)
    }


def chronicle(path: str | Path, *, norms: bool = True) -> list[Dated]:
    """Return the events of gradguard in a run directory, and those that open a session.

    Args:
        path: The directory, or its URL.
        norms: Whether to keep more of the writes than their steps.

    Raises:
        DamagedFileError: If a file of it cannot be understood.
    """
    files = [
        [event if norms else event.without_norms() for event in _events(file)]
        for file in places.event_files(places.located(path))
    ]
    # By time: names of files of the same second do not say which is older.
    files = sorted(filter(None, files), key=lambda events: events[0].wall_time)
    return list(chain.from_iterable(files))


def _events(file: str) -> Iterator[Dated]:
    """Yield each event of ours in a file, and each that opens a session."""
    schemas: dict[str, Schema] = {}
    for position, data in _payloads(file):
        session = _SESSION.match(data)
        if not session and not any(kind.encode() in data for kind in _PARTS):
            continue
        try:
            event = Event.FromString(data)
            writes = [None] if session else list(_decoded(event, schemas))
        except NewerSchemaError as error:
            raise DamagedFileError(f"{file} {error}") from None
        except (DecodeError, KeyError, TypeError, ValueError):
            # What protobuf, JSON and numpy say of bytes that are none of theirs.
            raise DamagedFileError(f"{file} is damaged at byte {position}") from None
        if not session or event.session_log.status == SessionLog.START:
            yield from (Dated(event.wall_time, event.step, write) for write in writes)


def _decoded(
    event: Any, schemas: dict[str, Schema]
) -> Iterator[Write | EpochWrite | SavedWrite]:
    """Yield what one event holds; schemas by tag are those of the events before it."""
    values = {value.tag: value for value in event.summary.value}
    for tag, value in values.items():
        make, kinds = _PARTS.get(tag.rpartition("/")[0], (None, ()))
        if make is None:
            continue
        if value.metadata.plugin_data.content:
            schemas[tag] = Schema.decode(value.metadata.plugin_data.content)
        schema = schemas[tag]
        write = make(
            schema, *(_content(values[schema.tag(kind)].tensor) for kind in kinds)
        )
        if not isinstance(write, SavedWrite):
            _require_shapes(write)
        yield write


def _require_shapes(write: Write | EpochWrite) -> None:
    """Refuse what no writer of ours wrote."""
    arrays: tuple[NDArray[Any], ...] = write[1:]
    size, last = len(arrays[0]), 2 if isinstance(write, Write) else len(STATISTICS)
    allowed = {(size,), (size, len(write.schema.names), last)}
    if {array.shape for array in arrays} != allowed:
        raise ValueError(f"shapes should be {allowed}")


def _payloads(file: str) -> Iterator[tuple[int, bytes]]:
    """Yield where every whole record starts, and its data.

    Only the lengths' checksums are looked at: in Python those of the data would take
    forty times as long as all the rest. A file that ends early, or in the zeros that a
    crashed machine leaves, is one whose last record was cut short.
    """
    with places.opened(file) as content:
        position = 0
        while len(header := content.read(_HEADER.size)) == _HEADER.size:
            length, checksum = _HEADER.unpack(header)
            if masked_crc32c(header[:_LENGTH_BYTES]) != checksum:
                if not (header + content.read()).strip(b"\0"):
                    return
                raise DamagedFileError(f"{file} is damaged at byte {position}")
            data = content.read(length + _FOOTER_BYTES)
            if len(data) < length + _FOOTER_BYTES:
                return
            yield position, data[:length]
            position += _HEADER.size + len(data)


def _content(tensor: TensorProto) -> NDArray[Any] | str:
    if tensor.dtype == DT_STRING:
        (text,) = tensor.string_val
        return str(text, "utf-8")
    dtype = np.int64 if tensor.dtype == DT_INT64 else np.float32
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    return np.frombuffer(tensor.tensor_content, dtype).reshape(shape)
