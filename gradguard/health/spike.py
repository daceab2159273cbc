"""A finding about single steps far above those before them, of finite gradients."""

from collections.abc import Iterator, Sequence

import numpy as np

from gradguard.health.finding import Finding
from gradguard.health.replay import command
from gradguard.health.steps import only, spikes
from gradguard.names import named
from gradguard.records.outliers import WINDOW, Outlier
from gradguard.records.recording import Recording
from gradguard.records.records import Records

# Share of the squared total that the parameters named have together.
_MOST_OF_IT = 0.9

# Spikes that are told beside the largest.
_MORE = 2


def spike(recording: Recording) -> Finding | None:
    """Find the totals far above the usual ones before them, and what became of the largest.

    By the rule of `GradGuard(on_spike=...)`. A note where a clip bounded every such step, or
    gradguard skipped it. A total that rises until it overflows is no spike.
    """
    seen = only(recording.records, ~recording.records.skipped)
    found = sorted(spikes(seen), key=lambda one: one.times, reverse=True)
    if not found:
        return None
    largest, *others = found
    rows = [one.row for one in found]
    skips = int(seen.refused[rows].sum())
    harmless = all(seen.refused[one.row] or _is_bounded(seen, one) for one in found)
    names, part = _carriers(seen, largest.row)
    sentences = [
        f"The total before clipping is {largest.value:.3g} at step "
        f"{seen.steps[largest.row]}, {largest.times:.3g} x what was usual in the "
        f"{WINDOW} steps before it, {part:.0%} of it in {named(names)}.",
        *_outcome(seen, largest),
        *_losses(seen, largest.row),
        *_more(seen, others, skips),
    ]
    return Finding(
        "spike",
        "note" if harmless else "warning",
        " ".join(sentences),
        _advice(harmless=harmless, skips=skips),
        int(seen.steps[largest.row]),
        names[0],
        _numbers(seen, largest)
        | {"spikes": float(len(found)), "skipped": float(skips)},
        command(recording, seen.steps[rows], keep='on_spike="skip"'),
    )


def _is_bounded(seen: Records, one: Outlier) -> bool:
    """Whether the clip left so much of it as would have been usual."""
    return bool(seen.total_after[one.row] <= one.limit)


def _carriers(seen: Records, row: int) -> tuple[list[str], float]:
    """Return the fewest parameters with nine tenths of a squared total, and their share.

    The largest comes first.
    """
    squares = np.square(np.nan_to_num(seen.before[row]), dtype=np.float64)
    order = np.argsort(-squares, kind="stable")
    shares = np.cumsum(squares[order]) / squares.sum()
    count = int(np.argmax(shares >= _MOST_OF_IT)) + 1
    return [seen.names[column] for column in order[:count]], float(shares[count - 1])


def _outcome(seen: Records, one: Outlier) -> Iterator[str]:
    """Say what became of a spike."""
    if seen.refused[one.row]:
        yield "gradguard kept it from the weights."
    elif not seen.clipped[one.row]:
        yield "Nothing clipped it."
    else:
        yet = "" if _is_bounded(seen, one) else ", yet far above what is usual"
        yield (
            f"The clip made it {seen.total_after[one.row]:.3g} "
            f"(coefficient {seen.coefficient[one.row]:.2g}){yet}."
        )


def _losses(seen: Records, row: int) -> Iterator[str]:
    """Say what the loss was around a step, if that is known."""
    around = seen.loss[max(0, row - 1) : row + 2]
    if row and len(around) == 3 and np.isfinite(around).all():  # noqa: PLR2004 (its parts)
        before, within, after = around.tolist()
        yield f"The loss was {before:.3g} before it, {within:.3g} in it and {after:.3g} after it."


def _more(seen: Records, others: Sequence[Outlier], skips: int) -> Iterator[str]:
    """Say how many more there are, and how many of all were skipped."""
    told = [f"step {seen.steps[one.row]} ({one.times:.3g} x)" for one in others]
    if len(told) > _MORE:
        told[_MORE:] = [f"{len(told) - _MORE} more"]
    if told:
        yield f"So are {named(told)}."
    if others and skips:
        yield f"gradguard skipped {skips} of them."


def _advice(*, harmless: bool, skips: int) -> str:
    if not harmless:
        return (
            'GradGuard(on_spike="skip") keeps such a step from the weights, '
            "GradGuard(clip=ZClip()) scales it down; look at its batch."
        )
    if skips:
        return "Look at the batch of such a step."
    return "Keep the clip; look at the batch if there are many."


def _numbers(seen: Records, one: Outlier) -> dict[str, float]:
    return {
        "total_before": one.value,
        "usual_before": one.usual,
        "times": one.times,
        "total_after": float(seen.total_after[one.row]),
        "coefficient": float(seen.coefficient[one.row]),
    }
