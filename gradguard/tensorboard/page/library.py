"""TensorBoard's data provider in, the records of a run out, the latest used kept."""

from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from tensorboard.data.provider import DataProvider, RunTagFilter, TensorDatum
from tensorboard.errors import NotFoundError

from gradguard.records.recording import STATISTICS, Epochs, Recording
from gradguard.records.records import Doubles, Floats, Records
from gradguard.records.schema import Schema
from gradguard.tensorboard import tags
from gradguard.tensorboard.history import living, merged
from gradguard.tensorboard.join import join
from gradguard.tensorboard.page.events import (
    epoch_events,
    saved_events,
    told,
    write_events,
)

# A run's norms beyond this are sampled, write by write: the data server sends at most
# 256 MiB at once, and reading takes four times as much memory as is read.
LARGEST_READ = 128 * 2**20

# Records that stay in memory, of all runs together.
LARGEST_CACHE = 256 * 2**20

_ALL = 2**31 - 1


class Source(NamedTuple):
    """Whose records: one optimizer's of one run.

    Attributes:
        run: The run's name in TensorBoard.
        optimizer: Its name in the records; "" where it is the run's only one.
    """

    run: str
    optimizer: str


@dataclass(frozen=True, eq=False)
class LoadedRun:
    """The records of a source, and what the page asks of them more than once.

    Attributes:
        recording: At most `LARGEST_READ` bytes of norms, and what goes with them.
        writes: Number of writes in the run.
        writes_read: How many of them `recording` holds.
    """

    recording: Recording
    writes: int
    writes_read: int

    @property
    def records(self) -> Records:
        """Norms and loss, step by step."""
        return self.recording.records

    @property
    def epochs(self) -> Epochs | None:
        """Statistics by epoch, None where none were asked for."""
        return self.recording.epochs

    @property
    def nbytes(self) -> int:
        """Memory the records take."""
        norms = self.records.before.nbytes + self.records.after.nbytes
        masks = 3 * self.records.missing.nbytes  # and which are clipped, non-finite
        by_epoch = self.epochs.values.nbytes if self.epochs else 0
        return norms + masks + by_epoch

    @cached_property
    def median_before(self) -> Doubles:
        """Each parameter's median norm before clipping, `[P]`; see `medians`."""
        return medians(self.records.before)

    @cached_property
    def median_after(self) -> Doubles:
        """Each parameter's median norm after clipping, `[P]`; see `medians`."""
        return medians(self.records.after)


def medians(norms: Floats) -> Doubles:
    """Median over steps of each parameter's positive finite norms; 1 if there are none.

    Args:
        norms: `[S, P]`.
    """
    columns = np.ascontiguousarray(norms.T)
    usable = [column[np.isfinite(column) & (column > 0)] for column in columns]
    return np.array([np.median(column) if len(column) else 1.0 for column in usable])


class Library:
    """Everything gradguard recorded below TensorBoard's log directory.

    Args:
        provider: TensorBoard's own, with the Rust data server behind it or without.
    """

    def __init__(self, provider: DataProvider) -> None:
        self._provider = provider
        self._lock = Lock()
        self._held: OrderedDict[tuple[str, Source, float], LoadedRun] = OrderedDict()

    def updated(self, context: object, *, experiment: str) -> dict[Source, float]:
        """Return what there is to read, and when it last grew, in seconds."""
        return {
            source: _updated(entries)
            for source, entries in self._listed(context, experiment).items()
        }

    def read(self, context: object, source: Source, *, experiment: str) -> LoadedRun:
        """Return a source's records as they are now.

        Raises:
            NotFoundError: If there are none.
        """
        entries = self._listed(context, experiment).get(source)
        if entries is None:
            raise NotFoundError(f"gradguard recorded nothing for {_named(source)}.")
        key = (experiment, source, _updated(entries))
        # The page asks for several panels at once: the first reads for all of them.
        with self._lock:
            if key not in self._held:
                schemas = list(dict.fromkeys(schema for schema, _ in entries))
                self._held[key] = self._load(context, experiment, source, schemas)
                self._forget_but(key)
            self._held.move_to_end(key)
            return self._held[key]

    def _listed(
        self, context: object, experiment: str
    ) -> dict[Source, list[tuple[Schema, Any]]]:
        """Return every readable schema beside TensorBoard's description of a tag of it."""
        series = self._provider.list_tensors(
            context, experiment_id=experiment, plugin_name=tags.PLUGIN
        )
        listed: dict[Source, list[tuple[Schema, Any]]] = {}
        for run, described in series.items():
            for tag, description in described.items():
                if description.max_wall_time is None:  # purged, all of it
                    continue
                if schema := _schema(tag, description.plugin_content):
                    source = Source(run, schema.optimizer)
                    listed.setdefault(source, []).append((schema, description))
        return listed

    def _load(
        self, context: object, experiment: str, source: Source, schemas: list[Schema]
    ) -> LoadedRun:
        """Read the writes of all schemas, a sample of them where they are too large."""

        def tensors(kind: str, most: int = _ALL) -> dict[str, list[TensorDatum]]:
            wanted = [schema.tag(kind) for schema in schemas]
            read = self._provider.read_tensors(
                context,
                experiment_id=experiment,
                plugin_name=tags.PLUGIN,
                run_tag_filter=RunTagFilter([source.run], wanted),
                downsample=most,
            ).get(source.run, {})
            return {
                schema.suffix: read.get(tag, [])
                for schema, tag in zip(schemas, wanted, strict=True)
            }

        try:
            steps, loss = tensors(tags.STEPS), tensors(tags.LOSS)
            norms = tensors(tags.NORMS, _affordable(schemas, steps, width=2))
            gone, saved = tensors(tags.ABANDONED), tensors(tags.SAVED_STEP)
            numbers = tensors(tags.EPOCH_NUMBERS)
            width = len(STATISTICS)
            most = _affordable(schemas, numbers, width=width)
            epochs = tensors(tags.EPOCHS, most)
        except ValueError as error:  # a tensor whose bytes do not fill its shape
            raise NotFoundError(
                f"the records of {_named(source)} are damaged: {error}."
            ) from error
        streams = [
            *write_events(schemas, steps=steps, norms=norms, loss=loss),
            *epoch_events(schemas, numbers=numbers, values=epochs, width=width),
            *saved_events(schemas, saved),
        ]
        kept = living(merged(streams))
        writes = [write for write in kept.writes if len(write.norms)]
        if not writes:
            raise NotFoundError(f"no record of {_named(source)} is readable.")
        abandoned = told(schemas, gone)
        recording = join(
            writes,
            kept.epoch_writes,
            kept.abandoned if abandoned is None else abandoned,
            kept.saved_steps,
        )
        return LoadedRun(recording, len(kept.writes), len(writes))

    def _forget_but(self, key: tuple[str, Source, float]) -> None:
        """Drop older versions of a run just read, then the longest unused runs."""
        for old in [old for old in self._held if old[:2] == key[:2] and old != key]:
            del self._held[old]
        while (
            len(self._held) > 1
            and sum(run.nbytes for run in self._held.values()) > LARGEST_CACHE
        ):
            self._held.popitem(last=False)


def _named(source: Source) -> str:
    of = f"optimizer {source.optimizer!r} of " if source.optimizer else ""
    return f"{of}run {source.run!r}"


def _schema(tag: str, content: bytes) -> Schema | None:
    """Return the schema of norms or epochs, None for other tags and for damaged ones."""
    try:
        schema = Schema.decode(content)
        described = (schema.tag(tags.NORMS), schema.tag(tags.EPOCHS))
        return schema if tag in described else None
    except (ValueError, KeyError, TypeError):
        return None


def _updated(entries: list[tuple[Schema, Any]]) -> float:
    return max(float(description.max_wall_time) for _, description in entries)


def _affordable(
    schemas: list[Schema], rows: dict[str, list[TensorDatum]], *, width: int
) -> int:
    """Return how many writes of each schema fit into `LARGEST_READ` together.

    Args:
        schemas: Of the writes.
        rows: Numbers of the rows of each write, by schema.
        width: How many numbers a row holds of each parameter.
    """
    size: int = sum(
        datum.numpy.size * len(schema.names) * width * np.float32().itemsize
        for schema in schemas
        for datum in rows[schema.suffix]
    )
    if size <= LARGEST_READ:
        return _ALL
    return max(1, max(map(len, rows.values())) * LARGEST_READ // size)
