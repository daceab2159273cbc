"""Real event files: written in an order that holds, and read as TensorBoard reads them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.event_file_writer import EventFileWriter


@contextmanager
def new_event_file(run: Path) -> Iterator[EventFileWriter]:
    """Write a file that sorts behind those of the run, and of its `before` and `after`.

    Files sort by the second in their names, which two files of a test may share.
    """
    earlier = set(run.rglob("*tfevents*"))
    sink = EventFileWriter(str(run))
    yield sink
    sink.close()
    for file in set(run.rglob("*tfevents*")) - earlier:
        *kind, _, writer = file.name.split(".", 4)
        second = 10**9 + sum(other.parent == file.parent for other in earlier)
        file.rename(file.with_name(".".join([*kind, str(second), writer])))


def events(run: Path) -> EventAccumulator:
    """Load all events of a run."""
    accumulator = EventAccumulator(str(run), {"tensors": 0, "scalars": 0})
    accumulator.Reload()
    return accumulator
