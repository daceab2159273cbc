"""Everything one optimizer of a run left behind: its steps, its clips, its epochs."""

import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gradguard.records.records import Floats, Records
from gradguard.records.statistics import BY_EPOCH

# What is known of each parameter at the end of an epoch, in the order it is stored.
STATISTICS = tuple(BY_EPOCH)

_NORM = re.compile(
    r"ClipNorm\(max_norm=(?P<own>[^,)]+), per_parameter=(?P<each>True|False)\)"
    r"|Trainer\(gradient_clip_val=(?P<trainer>[^,)]+), gradient_clip_algorithm='norm'\)"
)


class ClipInForce(NamedTuple):
    """What clipped, from a step on.

    Attributes:
        step: The first step.
        text: The policies, or the Trainer's clip, as one would write them in code;
            empty where neither clips.
    """

    step: int
    text: str

    @property
    def max_norm(self) -> float | None:
        """The largest norm it lets through; None where it does not clip by a fixed one."""
        found = _NORM.search(self.text)
        return float(found["own"] or found["trainer"]) if found else None

    @property
    def per_parameter(self) -> bool:
        """Whether `max_norm` holds for each parameter by itself."""
        found = _NORM.search(self.text)
        return found is not None and found["each"] == "True"


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
class Recording:
    """What gradguard wrote about one optimizer of a run.

    Attributes:
        records: Norms and loss, step by step.
        clips: What clipped, from which step on; at least one.
        unoptimized: Trainable parameters that no optimizer of the run holds.
        epochs: Statistics by parameter and epoch; None where none were asked for.
    """

    records: Records
    clips: tuple[ClipInForce, ...] = (ClipInForce(0, ""),)
    unoptimized: tuple[str, ...] = ()
    epochs: Epochs | None = None
