"""Records to the Trainer's loggers: all of them to event files, their sums to any.

A logger that cannot write costs one warning and a count, never the training. What it could
not write is kept, up to a bound, and tried again with the next write.
"""

import re
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from gradguard.fit.herald import Herald
from gradguard.fit.tally import Tally
from gradguard.records.intervals import interval_scalars
from gradguard.records.recording import Epochs, SavedStep
from gradguard.records.records import Records, thinned
from gradguard.records.schema import Schema
from gradguard.tensorboard.writer import EventWriter

# Writes that wait for a logger to recover; each is one interval.
_MOST_WAITING = 100

# What the names of metrics may hold everywhere: MLflow refuses all else, Lightning warns.
_REFUSED = re.compile(r"[^\w./ -]", re.ASCII)


class Interval(NamedTuple):
    """One write.

    Attributes:
        schema: What the columns mean.
        records: Every step of the interval that is to be kept; None for epochs alone.
        scalars: The sums over all its steps, by tag.
        epochs: Statistics by epoch; None for steps.
        step: Updates completed.
        since: Updates completed before the first of them all; None for epochs.
        saved_in: Where the one bad step of the write is saved; "" for all else.
    """

    schema: Schema
    records: Records | None
    scalars: Mapping[str, float]
    epochs: Epochs | None
    step: int
    since: int | None = None
    saved_in: str = ""


class Loggers:
    """Write records to every logger of a Trainer; only the process of rank zero does.

    Args:
        trainer: A Trainer of either namespace of Lightning.
        every_n_steps: Write every n-th step, and the spikes between.
        max_scalars: Largest number of parameters to write scalars for.
        verdict: Whether to keep what a verdict at the end needs.

    Attributes:
        herald: Who tells it; None if none is wanted.
        tally: How the fit is going.
    """

    def __init__(
        self, trainer: Any, *, every_n_steps: int, max_scalars: int, verdict: bool
    ) -> None:
        self.tally = Tally()
        self._every_n_steps = every_n_steps
        self._outlets: list[_Outlet] = []
        self.herald: Herald | None = None
        if not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            self._outlets += _outlets(logger, max_scalars)
        if verdict:
            found = (one.directory for one in self._outlets if one.directory)
            self.herald = Herald(trainer, next(found, ""))
            tell = partial(_to_herald, self.herald)
            self._outlets.append(_Outlet("the terminal", tell))

    def write(
        self,
        schema: Schema,
        records: Records,
        in_force: Mapping[str, float | Tensor],
    ) -> None:
        """Write the steps of one interval, at least one, and what is in force, by tag."""
        if not self._outlets:
            return
        self.tally = self.tally.plus(records)
        values = interval_scalars(records)
        values |= {tag: float(value) for tag, value in in_force.items()}
        scalars = {schema.scalar_tag(tag): value for tag, value in values.items()}
        kept = thinned(records, self._every_n_steps)
        since, step = int(records.steps[0]), int(records.steps[-1])
        self._put(Interval(schema, kept, scalars, None, step, since))

    def write_epochs(self, schema: Schema, epochs: Epochs, *, step: int) -> None:
        """Write statistics by epoch; to event files only, others have no place for them."""
        self._put(Interval(schema, None, {}, epochs, step))

    def write_saved_step(self, schema: Schema, step: int, file: str) -> None:
        """Write where a bad step is saved; to event files only."""
        self._put(Interval(schema, None, {}, None, step, saved_in=file))

    def flush(self) -> None:
        """Wait until everything written to event files is in them."""
        for outlet in self._outlets:
            outlet.flush()

    def close(self) -> None:
        """Flush, close what does not belong to the loggers, and say what was lost."""
        for outlet in self._outlets:
            outlet.close()

    def _put(self, interval: Interval) -> None:
        for outlet in self._outlets:
            outlet.put(interval)


class _Outlet:
    """One logger, and what waits for it.

    Args:
        name: What it is called in a warning.
        write: Writes one interval.
        flush: Waits until it is written.
        close: Closes what does not belong to the logger.
        directory: Where its event files are; "" if it has none.
    """

    def __init__(
        self,
        name: str,
        write: Callable[[Interval], None],
        flush: Callable[[], None] = lambda: None,
        close: Callable[[], None] = lambda: None,
        directory: str = "",
    ) -> None:
        self.directory = directory
        self._name = name
        self._write, self._flush, self._close = write, flush, close
        self._waiting: deque[Interval] = deque()
        self._lost = 0
        self._failed = False

    def put(self, interval: Interval) -> None:
        """Write an interval, behind those that wait."""
        self._waiting.append(interval)
        while self._waiting and self._tried(lambda: self._write(self._waiting[0])):
            self._waiting.popleft()
        if len(self._waiting) > _MOST_WAITING:
            self._waiting.popleft()
            self._lost += 1

    def flush(self) -> None:
        """Wait until everything is written."""
        self._tried(self._flush)

    def close(self) -> None:
        """Write what waits if that can be done now, and say how much is lost."""
        while self._waiting and self._tried(lambda: self._write(self._waiting[0])):
            self._waiting.popleft()
        self._tried(self._close)
        lost = self._lost + len(self._waiting)
        self._waiting.clear()
        if lost:
            warnings.warn(
                f"GradGuard could not write {lost} of its records to {self._name}, "
                "and they are lost",
                stacklevel=2,
            )

    def _tried(self, act: Callable[[], None]) -> bool:
        """Whether it could be done; the first time it cannot, say so."""
        try:
            act()
        except Exception as error:  # whatever somebody's logger raises
            if not self._failed:
                self._failed = True
                _warn(self._name, error)
            return False
        return True


def _warn(name: str, error: Exception) -> None:
    warnings.warn(
        f"GradGuard cannot write to {name} ({type(error).__name__}: {error}); training "
        "goes on, and so do its attempts",
        stacklevel=2,
    )


def _outlets(logger: Any, max_scalars: int) -> list[_Outlet]:
    """Return the outlet of a logger; none if the logger cannot even be asked."""
    try:
        return [_outlet(logger, max_scalars)]
    except Exception as error:  # as of a server that is away
        _warn(type(logger).__name__, error)
        return []


def _to_herald(herald: Herald, interval: Interval) -> None:
    if interval.records is not None:
        herald.hear(interval.schema, interval.records)
    if interval.saved_in:
        herald.hear_saved(interval.schema, SavedStep(interval.step, interval.saved_in))


def _outlet(logger: Any, max_scalars: int) -> _Outlet:
    experiment = getattr(logger, "experiment", None)
    name = type(logger).__name__
    if not isinstance(experiment, SummaryWriter):
        names = MetricNames()
        return _Outlet(name, lambda interval: _log_metrics(logger, names, interval))
    # Private, and the only way to write an event with tensors and metadata through the
    # writer that owns the directory; Lightning calls it itself.
    sink = experiment._get_file_writer()  # type: ignore[no-untyped-call]
    writer = EventWriter(sink, experiment.log_dir, max_scalars)
    return _Outlet(
        name,
        lambda interval: _to_events(writer, interval),
        writer.flush,
        writer.close,
        experiment.log_dir,
    )


def _to_events(writer: EventWriter, interval: Interval) -> None:
    if interval.records is not None:
        writer.write(
            interval.schema, interval.records, interval.scalars, since=interval.since
        )
    if interval.epochs is not None:
        writer.write_epochs(interval.schema, interval.epochs, interval.step)
    if interval.saved_in:
        writer.write_saved_step(interval.schema, interval.saved_in, interval.step)


def _log_metrics(logger: Any, names: "MetricNames", interval: Interval) -> None:
    if interval.scalars:
        metrics = {names[tag]: value for tag, value in interval.scalars.items()}
        logger.log_metrics(metrics, step=interval.step)


class MetricNames(dict[str, str]):
    """The name of each tag that every logger takes, and that no other tag has.

    Examples:
        >>> names = MetricNames()
        >>> names["threshold/rnn.*"], names["threshold/rnn.?"]
        ('threshold/rnn._', 'threshold/rnn._-2')
    """

    def __missing__(self, tag: str) -> str:
        name = plain = _REFUSED.sub("_", tag)
        while name in self.values():
            name = f"{plain}-{len(self) + 1}"
        self[tag] = name
        return name
