"""Records in, TensorBoard events out: two of them per write, whatever the number of steps.

The scalars are dated by the last of the steps, as TensorBoard draws them. The tensors are
dated by the first, for of an event that is dated by a step TensorBoard makes void all or
nothing: whatever it voids holds no step that still counts (`gradguard.tensorboard.history`).
"""

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import (
    DATA_CLASS_TENSOR,
    Summary,
    SummaryMetadata,
)
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_FLOAT, DT_INT64, DT_STRING
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from gradguard.records.recording import Epochs
from gradguard.records.records import Records, to_stored
from gradguard.records.schema import Schema
from gradguard.tensorboard import places, tags
from gradguard.tensorboard.history import Dated, living, opened_sessions
from gradguard.tensorboard.join import Write
from gradguard.tensorboard.reader import chronicle

Arrays = Mapping[str, NDArray[np.generic]]


# Free bytes of a disk below which nothing is written: names, scalars, and the logger's own.
_HEADROOM = 2**20


class EventSink(Protocol):
    """Where events go: the file writer of a run's directory."""

    def add_event(self, event: Event) -> None:
        """Queue an event for the file."""

    def flush(self) -> None:
        """Wait until everything queued is in the file."""


class EventWriter:
    """Write records into a run.

    Tensors and scalars go through the run's own writer: a second writer in the same
    directory makes TensorBoard lose points.

    Args:
        sink: The file writer of the run's directory.
        logdir: The run's directory, or its URL. The runs `before` and `after`, with the
            scalars per parameter, are made below it.
        max_scalars: Largest number of parameters to write scalars for.
    """

    def __init__(self, sink: EventSink, logdir: str | Path, max_scalars: int) -> None:
        self._sink = sink
        self._logdir = os.fspath(logdir)
        self._max_scalars = max_scalars
        self._described: set[str] = set()
        self._moments: dict[str, EventFileWriter] = {}
        self._past: list[Dated] | None = None
        self._joined: set[str] = set()
        self._written: tuple[str, int] | None = None

    def write(
        self,
        schema: Schema,
        records: Records,
        scalars: Mapping[str, float],
        *,
        since: int | None = None,
    ) -> None:
        """Write `K` steps.

        Args:
            schema: What the columns of the records mean.
            records: The steps.
            scalars: What is dated by the last of them, by tag.
            since: Where the interval began, if its first step is not among them.
        """
        self._require_room(records.before.nbytes + records.after.nbytes)
        step = int(records.steps[-1])
        # What failed below is tried again as a whole: here it may have succeeded.
        if self._written != (schema.optimizer, step):
            first = int(records.steps[0])
            if scalars:
                self._sink.add_event(_event(step, list(_scalars(scalars))))
            self._write_tensors(schema, records, first if since is None else since)
            self._written = (schema.optimizer, step)
        if len(schema.names) > self._max_scalars:
            return
        present = ~records.missing[-1]
        names = np.array([tags.parameter_tag(name) for name in schema.names])[present]
        for run, norms in (
            (tags.BEFORE_RUN, records.before),
            (tags.AFTER_RUN, records.after),
        ):
            shown = dict(zip(names.tolist(), norms[-1, present].tolist(), strict=True))
            self._moment(run).add_event(_event(step, list(_scalars(shown))))

    def write_epochs(self, schema: Schema, epochs: Epochs, step: int) -> None:
        """Write statistics by epoch as one event, dated by the last update completed.

        Args:
            schema: What the columns of the statistics mean.
            epochs: The statistics.
            step: Updates completed.
        """
        self._require_room(epochs.values.nbytes)
        arrays: Arrays = {
            tags.EPOCHS: epochs.values,
            tags.EPOCH_NUMBERS: epochs.epochs,
        }
        self._add(max(0, step - 1), list(self._tensors(schema, arrays)))

    def write_saved_step(self, schema: Schema, file: str, step: int) -> None:
        """Write where a bad step is saved, as one event, dated by that step."""
        self._require_room(len(file))
        texts: Arrays = {tags.SAVED_STEP: np.array([file])}
        self._add(step, list(self._tensors(schema, texts)))

    def flush(self) -> None:
        """Wait until everything written is in the files."""
        self._sink.flush()
        for writer in self._moments.values():
            writer.flush()

    def close(self) -> None:
        """Flush, and close the files that are not the logger's own."""
        self._sink.flush()
        while self._moments:
            self._moments.popitem()[1].close()

    def _require_room(self, size: int) -> None:
        # The logger's own events go through the same thread: if ours broke it, the
        # logger would fail where it would not have without us.
        places.require_room(self._logdir, 2 * size + _HEADROOM)

    def _add(self, step: int, values: list[Summary.Value]) -> None:
        self._sink.add_event(_event(step, values))
        # Not before: an event that could not be added will be, with its description.
        self._described |= {value.tag for value in values}

    def _write_tensors(self, schema: Schema, records: Records, since: int) -> None:
        arrays: dict[str, NDArray[np.generic]] = {
            tags.NORMS: to_stored(records),
            tags.STEPS: records.steps,
            tags.LOSS: records.loss,
        }
        if self._past is None:
            self._past = self._read_past()
        if schema.optimizer not in self._joined:
            since, abandoned = _seam(self._past, Write(schema, records.steps), since)
            if abandoned.size:
                # The data server forgets what is void, and with it that there was any.
                arrays[tags.ABANDONED] = abandoned
        self._add(since, list(self._tensors(schema, arrays)))
        self._joined.add(schema.optimizer)

    def _read_past(self) -> list[Dated]:
        """Return what stands in the run's directory, without the norms."""
        self._sink.flush()
        try:
            return chronicle(self._logdir, norms=False)
        except Exception:  # damaged, newer, out of reach: training goes on without
            return []

    def _moment(self, run: str) -> EventFileWriter:
        if run not in self._moments:
            writer = EventFileWriter(places.below(self._logdir, run))
            # Where the logger has TensorBoard purge the run, this one goes along.
            for event in opened_sessions(self._past or []):
                session = SessionLog(status=SessionLog.START)
                writer.add_event(
                    Event(wall_time=time.time(), step=event.step, session_log=session)
                )
            self._moments[run] = writer
        return self._moments[run]

    def _tensors(self, schema: Schema, arrays: Arrays) -> Iterator[Summary.Value]:
        """Yield arrays by kind, each described where it is the first of its tag."""
        for kind, array in arrays.items():
            tag = schema.tag(kind)
            metadata = None if tag in self._described else _metadata(schema)
            yield Summary.Value(tag=tag, tensor=_tensor(array), metadata=metadata)


def _seam(past: list[Dated], write: Write, since: int) -> tuple[int, NDArray[np.int64]]:
    """Return from which step on a first write makes the past void, and what of it is."""
    events = [event for event in past if event.is_of(write.schema.optimizer)]
    since = min([since, *(event.step for event in opened_sessions(events))])
    abandoned = living([*events, Dated(0.0, since, write)]).abandoned
    return since, np.array(abandoned, np.int64)


def _metadata(schema: Schema) -> SummaryMetadata:
    plugin = SummaryMetadata.PluginData(
        plugin_name=tags.PLUGIN, content=schema.encode()
    )
    # Without a data class, TensorBoard keeps the tensors but shows them to no plugin.
    return SummaryMetadata(plugin_data=plugin, data_class=DATA_CLASS_TENSOR)


def _event(step: int, values: list[Summary.Value]) -> Event:
    return Event(wall_time=time.time(), step=step, summary=Summary(value=values))


def _scalars(scalars: Mapping[str, float]) -> Iterator[Summary.Value]:
    for tag, value in scalars.items():
        yield Summary.Value(tag=tag, simple_value=value)


def _tensor(array: NDArray[np.generic]) -> TensorProto:
    shape = TensorShapeProto(
        dim=[TensorShapeProto.Dim(size=size) for size in array.shape]
    )
    if array.dtype.kind == "U":
        texts = [text.encode() for text in array.tolist()]
        return TensorProto(dtype=DT_STRING, tensor_shape=shape, string_val=texts)
    return TensorProto(
        dtype=DT_INT64 if array.dtype == np.int64 else DT_FLOAT,
        tensor_shape=shape,
        tensor_content=np.ascontiguousarray(array).tobytes(),
    )
