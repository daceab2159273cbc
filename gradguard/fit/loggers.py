"""Records to the Trainer's loggers: all of them to event files, their sums to any."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from gradguard.records.intervals import interval_scalars
from gradguard.records.recording import Epochs
from gradguard.records.records import Records, thinned
from gradguard.records.schema import Schema
from gradguard.tensorboard.writer import EventWriter


class Loggers:
    """Write records to every logger of a Trainer; only the process of rank zero does.

    Args:
        trainer: A Trainer of either namespace of Lightning.
        every_n_steps: Write every n-th step, and the spikes between.
        max_scalars: Largest number of parameters to write scalars for.
    """

    def __init__(self, trainer: Any, *, every_n_steps: int, max_scalars: int) -> None:
        self._every_n_steps = every_n_steps
        self._writers: list[EventWriter] = []
        self._loggers: list[Any] = []
        for logger in trainer.loggers if trainer.is_global_zero else ():
            experiment = getattr(logger, "experiment", None)
            if not isinstance(experiment, SummaryWriter):
                self._loggers.append(logger)
                continue
            # Private, and the only way to write an event with tensors and metadata
            # through the writer that owns the directory; Lightning calls it itself.
            sink = experiment._get_file_writer()  # type: ignore[no-untyped-call]
            logdir = Path(experiment.log_dir)
            self._writers.append(EventWriter(sink, logdir, max_scalars))

    def write(
        self,
        schema: Schema,
        records: Records,
        in_force: Mapping[str, float | Tensor],
    ) -> None:
        """Write the steps of one interval, at least one, and what is in force, by tag."""
        if not (self._writers or self._loggers):
            return
        values = interval_scalars(records)
        values |= {tag: float(value) for tag, value in in_force.items()}
        scalars = {schema.scalar_tag(tag): value for tag, value in values.items()}
        kept = thinned(records, self._every_n_steps)
        for writer in self._writers:
            writer.write(schema, kept, scalars)
        for logger in self._loggers:
            logger.log_metrics(scalars, step=int(records.steps[-1]))

    def write_epochs(self, schema: Schema, epochs: Epochs, *, step: int) -> None:
        """Write statistics by epoch; to event files only, others have no place for them."""
        for writer in self._writers:
            writer.write_epochs(schema, epochs, step)

    def flush(self) -> None:
        """Wait until everything written to event files is in them."""
        for writer in self._writers:
            writer.flush()

    def close(self) -> None:
        """Flush, and close what does not belong to the loggers."""
        for writer in self._writers:
            writer.close()
