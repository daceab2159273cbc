"""What of a run still counts after it was resumed, restarted or purged: the living branch.

An event dated by step s makes void what was written before of step s and of later ones.
TensorBoard's data server does so by tag and by whole event; its loader in Python only at
the events that open a session (`SummaryWriter(purge_step=s)`), for all tags. An event of
ours holds several steps, so that the cut may go through it.
"""

from collections.abc import Iterable
from itertools import accumulate
from operator import itemgetter
from typing import NamedTuple

from gradguard.records.recording import Abandoned, SavedStep
from gradguard.tensorboard.join import EpochWrite, SavedWrite, Write


class Dated(NamedTuple):
    """One event of a run.

    Attributes:
        wall_time: When it was written, in seconds.
        step: Its date. Those of 0.1 are dated by their last step.
        write: What it holds; None where it only opens a session.
    """

    wall_time: float
    step: int
    write: Write | EpochWrite | SavedWrite | None

    def is_of(self, optimizer: str) -> bool:
        """Whether it says anything of an optimizer."""
        return self.write is None or self.write.schema.optimizer == optimizer

    def without_norms(self) -> "Dated":
        """Return the event with no more of its write than the steps."""
        if not isinstance(self.write, Write):
            return self
        return self._replace(write=Write(self.write.schema, self.write.steps.copy()))

    @property
    def since(self) -> int | None:
        """From which step on earlier events are void; None if they are not."""
        if isinstance(self.write, (EpochWrite, SavedWrite)):
            return None
        if self.write is None or not self.write.steps.size:
            return self.step
        return min(self.step, int(self.write.steps[0]))


class Living(NamedTuple):
    """What counts.

    Attributes:
        writes: In order, without the steps that were abandoned.
        epoch_writes: The same of statistics by epoch.
        abandoned: What was left out, in the order in which it was.
        saved_steps: Bad steps that were saved.
    """

    writes: list[Write]
    epoch_writes: list[EpochWrite]
    abandoned: tuple[Abandoned, ...]
    saved_steps: tuple[SavedStep, ...]


def living(events: Iterable[Dated]) -> Living:
    """Return what counts of one optimizer's events, given in the order they were written."""
    writes: list[Write] = []
    epochs: list[Dated] = []
    abandoned: list[Abandoned] = []
    saved: list[SavedStep] = []
    declared = False
    for event in events:
        if isinstance(event.write, SavedWrite):
            saved.append(SavedStep(event.step, event.write.file))
            continue
        since = event.since
        if since is None:
            epochs.append(event)
            continue
        left_out = _cut(writes, since)
        # Until version 2 statistics were dated by the update after their last.
        while epochs and epochs[-1].step > since:
            epochs.pop()
        saved = [one for one in saved if one.step < since]
        if left_out and declared:  # the same session cuts again, where it goes on
            step, steps = abandoned.pop()
            since, left_out = min(step, since), steps + left_out
        if left_out:
            abandoned.append(Abandoned(since, left_out))
        declared = event.write is None and (declared or left_out > 0)
        if isinstance(event.write, Write) and (event.write.steps.size or not writes):
            writes.append(event.write)
    # What is without steps says what the columns are, if nothing else does.
    writes = [write for write in writes if write.steps.size] or writes
    return Living(
        writes, [_epochs(event) for event in epochs], tuple(abandoned), tuple(saved)
    )


def _cut(writes: list[Write], since: int) -> int:
    """Take steps from `since` on out of writes, and return how many these were.

    The first write stays, if without any step.
    """
    left_out = 0
    while writes and writes[-1].steps.size and writes[-1].steps[-1] >= since:
        last = writes.pop()
        keep = int((last.steps < since).sum())
        left_out += last.steps.size - keep
        if keep or not writes:
            writes.append(last.cut(keep))
    return left_out


def opened_sessions(events: list[Dated]) -> list[Dated]:
    """Return the sessions that were opened, and in which nothing has been written yet."""
    last = max(
        (row for row, event in enumerate(events) if event.write is not None), default=-1
    )
    return events[last + 1 :]


def merged(streams: Iterable[Iterable[Dated]]) -> list[Dated]:
    """Merge streams by time; the order within each stays, whatever its clock did."""
    timed = [
        (latest, event)
        for stream in map(list, streams)
        for latest, event in zip(
            accumulate((event.wall_time for event in stream), max), stream, strict=True
        )
    ]
    return [event for _, event in sorted(timed, key=itemgetter(0))]


def _epochs(event: Dated) -> EpochWrite:
    assert isinstance(event.write, EpochWrite)
    return event.write
