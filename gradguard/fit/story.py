"""What one optimizer's steps were, kept through a fit in little memory."""

from dataclasses import replace

import numpy as np

from gradguard.records.recording import Recording, SavedStep
from gradguard.records.records import Records, to_stored
from gradguard.records.schema import Schema
from gradguard.tensorboard.join import Write, join

# Norms of so many steps times parameters are kept, 32 MiB of them; then every other step.
_MOST = 2**22

# Steps kept on both sides of what a verdict is about.
_AROUND = 32


class Story:
    """Keep the steps of one optimizer; of a long fit fewer, those that matter whole.

    Attributes:
        saved: Bad steps that were saved to be run again.
    """

    def __init__(self) -> None:
        self.saved: list[SavedStep] = []
        self._writes: list[Write] = []
        self._size = 0

    @property
    def has_steps(self) -> bool:
        """Whether any step is kept."""
        return bool(self._writes)

    def add(self, schema: Schema, records: Records) -> None:
        """Keep the steps of one write."""
        self._keep(schema, records)
        if self._size > _MOST:
            kept = thinned(join(self._writes).records)
            self._writes.clear()
            self._size = 0
            self._keep(replace(schema, names=kept.names), kept)

    def recording(self) -> Recording:
        """Return everything kept as one recording."""
        return replace(join(self._writes), saved_steps=tuple(self.saved))

    def _keep(self, schema: Schema, records: Records) -> None:
        norms = to_stored(records)
        self._writes.append(Write(schema, records.steps, norms, records.loss))
        self._size += records.before.size


def thinned(records: Records) -> Records:
    """Return every other step, and all around the start, the peak and the first bad step."""
    keep = np.zeros(len(records.steps), bool)
    keep[::2] = True
    peak = np.argmax(np.nan_to_num(records.total_before, nan=0.0, posinf=0.0))
    for row in (0, int(peak), int(np.argmax(records.nonfinite))):
        keep[max(0, row - _AROUND) : row + _AROUND] = True
    return records[keep]
