"""A clip threshold for the next run, or the reason why there is none."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gradguard.health.diagnosis import diagnose
from gradguard.health.finding import Finding, UnderClip
from gradguard.health.steps import spikes, updates
from gradguard.records.recording import Recording
from gradguard.records.records import LARGEST_FLOAT32_NORM, Records

# Of the first total. In both bundled systems that explode the best threshold is there:
# 2 to 5 of 459 in the MLP, 1 of 94 in the SRN; at the first total itself neither learns.
_OF_THE_FIRST = 0.01

# Between one threshold to try and the next.
_STEP = 5

# Of the totals that a clip let through, in a run that nothing is wrong with.
_QUANTILE = 0.9


class Suggestion(NamedTuple):
    """A threshold for `ClipNorm`, with its reason.

    Attributes:
        max_norm: The largest total to let through; None where none is suggested.
        reason: Why, in a sentence or two.
        short: The same in one line, where there is one.
    """

    max_norm: float | None
    reason: str
    short: str = ""


def suggest(
    recording: Recording, *, found: Sequence[Finding] | None = None
) -> Suggestion:
    """Suggest a starting point for the largest norm; only trying it tells.

    Args:
        recording: Of a run with or without a clip.
        found: What `diagnose` says of it, if that is known.
    """
    found = diagnose(recording) if found is None else found
    applied = updates(recording.records)
    if not len(applied.steps):
        return Suggestion(None, "No update was recorded.")
    if _any(found, "kept"):
        return Suggestion(
            None,
            "The layers' gradients are far apart from the start, and a clip by norm "
            "keeps their ratio.",
        )
    first = float(applied.total_before[0])
    spiked = any(one.kind == "spike" and one.serious for one in found)
    found = [one for one in found if one.kind != "spike"]
    explodes = _any(found, "prevented", "perhaps prevented", "bounded")
    if explodes or not np.isfinite(first):
        return _from_the_first(first, _norm_in_force(recording))
    if _any(found, "not prevented"):
        return Suggestion(
            None,
            "A NaN or Inf came, and no growth was found before it: no clip prevents that.",
        )
    if spiked:
        return _below_the_spikes(applied)
    return _from_the_clip(applied) if applied.clipped.any() else _insurance(applied)


def _norm_in_force(recording: Recording) -> float | None:
    """Return the largest total that the last clip let through; None if none is fixed."""
    return recording.clips[-1].clip.max_norm_of_total


def _from_the_first(first: float, in_force: float | None) -> Suggestion:
    if not 0 < first < LARGEST_FLOAT32_NORM:
        return Suggestion(
            None,
            f"The first total is {first:.3g}: no norm to start from. Look at the data, "
            "the loss and the initial weights first.",
        )
    max_norm = _rounded(_OF_THE_FIRST * first)
    if in_force is not None and 0 < in_force <= max_norm:
        return _below(in_force)
    return Suggestion(
        max_norm,
        f"1 % of the first total, {first:.3g}. The norms of a run that explodes say "
        "nothing of the right size, and in the bundled experiments a clip at the first "
        f"total was as bad as none. Also try {max_norm / _STEP:.2g} and {max_norm * _STEP:.2g}.",
        f"1 % of the first total, {first:.3g}; try {max_norm / _STEP:.2g} and "
        f"{max_norm * _STEP:.2g}, too.",
    )


def _below(in_force: float) -> Suggestion:
    max_norm = _rounded(in_force / _STEP)
    return Suggestion(
        max_norm,
        f"A fifth of {in_force:g}, the clip in force, which does not hold the run.",
        f"A fifth of {in_force:g}, which does not hold the run.",
    )


def _below_the_spikes(applied: Records) -> Suggestion:
    rows = [one.row for one in spikes(applied)]
    largest = _rounded(float(np.delete(applied.total_before, rows).max()))
    return Suggestion(
        largest,
        f"Every total but those of the spikes is at most {largest:g}: a clip there bounds "
        "the spikes and leaves all other steps as they are.",
    )


def _insurance(applied: Records) -> Suggestion:
    largest = _rounded(float(applied.total_before.max()))
    return Suggestion(
        None,
        "Nothing explodes, so none is needed. As an insurance, "
        f"{largest:g} would have left this run as it is.",
    )


def _from_the_clip(applied: Records) -> Suggestion:
    totals_after = applied.total_after[np.isfinite(applied.total_after)]
    if not len(totals_after):
        return Suggestion(None, "No total after clipping is finite.")
    max_norm = _rounded(float(np.quantile(totals_after, _QUANTILE)))
    return Suggestion(
        max_norm,
        "Nothing is found wrong with this run, and its clip lets through a total of at "
        f"most {max_norm:g} on nine steps of ten. Norms before the clip are no guide: "
        "they are those of a run that needs it.",
    )


def _any(found: Sequence[Finding], *under_clip: UnderClip) -> bool:
    return any(one.serious and one.under_clip in under_clip for one in found)


def _rounded(value: float) -> float:
    """Return the value to two digits."""
    return float(f"{value:.2g}")
