"""Everything one optimizer of a run left behind: its steps, its clips, its epochs."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gradguard.records.clips import NOTHING, ClipData
from gradguard.records.records import Floats, Records
from gradguard.records.shown import Shown
from gradguard.records.statistics import BY_EPOCH

# What is known of each parameter at the end of an epoch, in the order it is stored.
STATISTICS = tuple(BY_EPOCH)

# Abandoned branches whose step is told.
_MOST_NAMED = 5


class ClipInForce(NamedTuple):
    """What clipped, from a step on.

    Attributes:
        step: The first step.
        clip: What clips.
    """

    step: int
    clip: ClipData

    @property
    def text(self) -> str:
        """What clips as one would write it in code; empty where nothing does."""
        return str(self.clip)

    @property
    def max_norm(self) -> float | None:
        """The largest fixed norm let through of the total, else of each parameter."""
        total = self.clip.max_norm_of_total
        return self.clip.max_norm_of_each if total is None else total

    @property
    def per_parameter(self) -> bool:
        """Whether `max_norm` holds for each parameter by itself."""
        return self.clip.max_norm_of_total is None and self.max_norm is not None


class Abandoned(NamedTuple):
    """Steps that were recorded, and do not count: training went on from before them.

    Attributes:
        step: From this one on; a later branch begins there.
        steps: How many.
    """

    step: int
    steps: int


class SavedStep(NamedTuple):
    """A bad step that was saved to be run again.

    Attributes:
        step: Optimizer steps completed before it.
        file: Where it is, on the machine that trained.
    """

    step: int
    file: str


@dataclass(frozen=True, eq=False)
class Epochs:
    """Statistics of `P` parameters at `E` moments: before the first epoch, after each.

    Means and standard deviations are over the elements of a parameter, the deviation
    that of the population. A gradient is that of the update in the epoch's last batch
    (at epoch -1 of the run's first update), as it was after clipping. The update ratio
    is ||new weight - old weight|| / ||old weight|| of that step, Inf where the old
    weight is zero. NaN where something is not known: there is no gradient, the update
    was skipped, or the epoch ended before its last batch.

    Attributes:
        names: Parameter names in model order, `[P]`.
        epochs: -1 for the state before training, then 0, 1, ..., `[E]`.
        values: `[E, P, 6]`, in the order of `STATISTICS`.
    """

    names: tuple[str, ...]
    epochs: NDArray[np.int64]
    values: Floats

    def __getitem__(self, statistic: str) -> Floats:
        """Return one statistic by name, `[E, P]`."""
        return self.values[:, :, STATISTICS.index(statistic)]


@dataclass(frozen=True, eq=False)
class Recording(Shown):
    """What gradguard wrote about one optimizer of a run.

    Attributes:
        records: Norms and loss, step by step.
        clips: What clipped, from which step on; at least one.
        unoptimized: Trainable parameters that no optimizer of the run holds.
        epochs: Statistics by parameter and epoch; None where none were asked for.
        abandoned: Steps left out, by the branch they were of.
        saved_steps: Bad steps that were saved to be run again.
    """

    records: Records
    clips: tuple[ClipInForce, ...] = (ClipInForce(0, NOTHING),)
    unoptimized: tuple[str, ...] = ()
    epochs: Epochs | None = None
    abandoned: tuple[Abandoned, ...] = ()
    saved_steps: tuple[SavedStep, ...] = ()

    def __repr__(self) -> str:
        return f"Recording({self.records!r}, clipping {self.clipping})"

    @property
    def clipping(self) -> str:
        """What clipped, as one would write it in code, and from which step on if it changed."""
        first, *later = self.clips
        changes = (f"; from step {clip.step} {clip.text or 'none'}" for clip in later)
        return (first.text or "none") + "".join(changes)

    @property
    def clipping_brief(self) -> str:
        """The same in fewer words."""
        first, *later = self.clips
        changes = (f"; from step {step} {clip.brief or 'none'}" for step, clip in later)
        return (first.clip.brief or "none") + "".join(changes)

    @property
    def left_out(self) -> str:
        """A sentence on the steps of abandoned branches; empty where there are none."""
        if not self.abandoned:
            return ""
        count = sum(branch.steps for branch in self.abandoned)
        steps = f"{count} step{'s' * (count != 1)}"
        verb = "is" if count == 1 else "are"
        if len(self.abandoned) == 1:
            where = f"a branch that was abandoned at step {self.abandoned[0].step}"
        else:
            at = [str(branch.step) for branch in self.abandoned]
            shown = ", ".join(at[:_MOST_NAMED]) + ", ..." * (len(at) > _MOST_NAMED)
            where = f"{len(at)} branches that were abandoned (at steps {shown})"
        return f"{steps} of {where} {verb} left out."
