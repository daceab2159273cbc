"""Records in, TensorBoard events out: one event per write, whatever the number of steps."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import (
    DATA_CLASS_TENSOR,
    Summary,
    SummaryMetadata,
)
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_FLOAT, DT_INT64
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from gradguard.records.recording import Epochs
from gradguard.records.records import Records, to_stored
from gradguard.records.schema import Schema
from gradguard.tensorboard import tags

Arrays = Mapping[str, NDArray[np.generic]]


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
        logdir: The run's directory. The runs `before` and `after`, with the scalars per
            parameter, are made below it.
        max_scalars: Largest number of parameters to write scalars for.
    """

    def __init__(self, sink: EventSink, logdir: Path, max_scalars: int) -> None:
        self._sink = sink
        self._logdir = logdir
        self._max_scalars = max_scalars
        self._described: set[str] = set()
        self._moments: dict[str, EventFileWriter] = {}

    def write(
        self, schema: Schema, records: Records, scalars: Mapping[str, float]
    ) -> None:
        """Write `K` steps as one event, dated by the last of them."""
        step = int(records.steps[-1])
        arrays: Arrays = {
            tags.NORMS: to_stored(records),
            tags.STEPS: records.steps,
            tags.LOSS: records.loss,
        }
        self._add(step, [*_scalars(scalars), *self._tensors(schema, arrays)])
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
        """Write statistics by epoch as one event, dated by the updates completed."""
        arrays: Arrays = {
            tags.EPOCHS: epochs.values,
            tags.EPOCH_NUMBERS: epochs.epochs,
        }
        self._add(step, list(self._tensors(schema, arrays)))

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

    def _add(self, step: int, values: list[Summary.Value]) -> None:
        self._sink.add_event(_event(step, values))
        # Not before: an event that could not be added will be, with its description.
        self._described |= {value.tag for value in values}

    def _moment(self, run: str) -> EventFileWriter:
        if run not in self._moments:
            self._moments[run] = EventFileWriter(str(self._logdir / run))
        return self._moments[run]

    def _tensors(self, schema: Schema, arrays: Arrays) -> Iterator[Summary.Value]:
        """Yield arrays by kind, each described where it is the first of its tag."""
        for kind, array in arrays.items():
            tag = schema.tag(kind)
            metadata = None if tag in self._described else _metadata(schema)
            yield Summary.Value(tag=tag, tensor=_tensor(array), metadata=metadata)


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
    return TensorProto(
        dtype=DT_INT64 if array.dtype == np.int64 else DT_FLOAT,
        tensor_shape=TensorShapeProto(
            dim=[TensorShapeProto.Dim(size=size) for size in array.shape]
        ),
        tensor_content=np.ascontiguousarray(array).tobytes(),
    )
