"""Findings about what is not finite, or too large for float32."""

from collections.abc import Iterator

import numpy as np

from gradguard.health.finding import Finding
from gradguard.health.replay import command
from gradguard.health.steps import updates
from gradguard.health.words import chosen, share
from gradguard.names import named
from gradguard.records.recording import Recording
from gradguard.records.records import Flags, Records

# An explosion shows in one of this many updates before, by this much over the median;
# fewer updates cannot tell.
_UPDATES = 3
_GROWTH = 10.0

# What stops such a step.
_SKIP = 'on_nonfinite="skip"'


def exploded(recording: Recording) -> Finding | None:
    """Find the first update made of a non-finite gradient, and who was first.

    Where nothing grew before, it is a `nonfinite-gradient`, which no clip prevents.
    """
    applied = updates(recording.records)
    bad = applied.nonfinite
    if not bad.any():
        return None
    row = int(np.argmax(bad))
    held, first = bad_gradients(applied, row)
    step = int(applied.steps[row])
    lasting, grew = bool(bad[-1]), _grew(applied, row)
    return Finding(
        "exploded" if grew else "nonfinite-gradient",
        "error" if lasting else "warning",
        f"The gradient is not finite at step {step} ({held} in {named(first)}), "
        f"and on {share(bad)}. {_loss_before(applied, row)}"
        + " Nothing grew before."
        * (not grew),
        f'{_to_try(lasting=lasting, grew=grew)}; on_nonfinite="skip" keeps such a '
        "step from the weights.",
        step,
        first[0],
        {"nonfinite_steps": float(bad.sum()), "parameters": float(len(first))},
        command(recording, [step], keep=_SKIP),
    )


def bad_gradients(records: Records, row: int) -> tuple[str, list[str]]:
    """Return what gradients held at a step, "NaN" or "Inf", and whose they were."""
    holders = records.nonfinite_gradients[row]
    held = "Inf" if np.isinf(records.before[row, holders]).any() else "NaN"
    return held, chosen(records, holders)


def nonfinite_loss(recording: Recording) -> Finding | None:
    """Find a loss that is not finite over finite gradients."""
    applied = updates(recording.records)
    row = _first_bad_loss(applied)
    if row is None or applied.nonfinite[: row + 2].any():
        return None  # the gradient went with it: that is `exploded`
    step = int(applied.steps[row])
    return Finding(
        "nonfinite-loss",
        "warning",
        f"The loss is {applied.loss[row]} at step {step}, over finite gradients.",
        "Look at the loss function: a logarithm, a division or a sum that overflows.",
        step,
    )


def overflow(recording: Recording) -> Finding | None:
    """Find finite gradients whose norm float32 cannot hold, and steps lost to that."""
    applied = updates(recording.records)
    large = applied.overflow
    if not large.any():
        return None
    row = int(np.argmax(large))
    lost = large & (applied.total_after == 0)
    step, total = int(applied.steps[row]), float(applied.total_before[row])
    numbers = {"total_before": total, "overflow_steps": float(large.sum())}
    if lost.any():
        return Finding(
            "frozen",
            "error",
            f"The clip made {share(lost)} zero: from step {step} the total of "
            f"finite gradients, {total:.2g}, overflows a float32 norm.",
            "Clip with gradguard, which takes such a norm in float64, and start "
            "from smaller weights.",
            step,
            numbers=numbers | {"lost_steps": float(lost.sum())},
        )
    return Finding(
        "overflow",
        "warning",
        f"The total of finite gradients is {total:.2g} at step {step}, too large "
        f"for a float32 norm; so on {share(large)}. A clip that takes its norm in "
        "float32 makes such a step zero.",
        "Start from smaller weights or add normalisation; if you clip, clip with "
        "gradguard.",
        step,
        numbers=numbers,
    )


def refused(recording: Recording) -> Finding | None:
    """Count the steps that gradguard kept from the weights, by what it did so for."""
    records = recording.records
    if not records.refused.any():
        return None
    steps = records.steps[records.refused]
    nonfinite = records.refused & records.nonfinite
    finite = records.refused & ~records.nonfinite
    numbers = {
        "refused_steps": nonfinite.sum() + finite.sum(),
        "finite_refused_steps": finite.sum(),
    }
    return Finding(
        "refused",
        "warning",
        f"gradguard skipped {share(records.refused)}: "
        f"{' and '.join(_reasons(records, nonfinite, finite))}.",
        "A few are bad batches; many are a learning rate that is too high or a "
        "clip that is missing.",
        int(steps[0]),
        numbers={name: float(count) for name, count in numbers.items()},
        command=command(
            recording,
            steps,
            keep=_SKIP if nonfinite.any() else 'on_spike="skip"',
        ),
    )


def _reasons(records: Records, nonfinite: Flags, finite: Flags) -> Iterator[str]:
    """Yield why steps were skipped, and how many."""
    for which, why in (
        (nonfinite, "for a non-finite gradient"),
        (finite, "with finite gradients, for a spike"),
    ):
        if which.any():
            first = records.steps[np.argmax(which)]
            yield f"{int(which.sum())} {why}, the first at step {first}"


def _grew(records: Records, row: int) -> bool:
    """Return whether a total or a loss just before this row was larger than usual.

    True also where too few updates came before to tell, but at the very first one.
    """
    if row < _UPDATES:
        return row > 0
    late = slice(row - _UPDATES, row)
    totals = records.total_before[:row]
    *losses, loss = records.loss[: row + 1].astype(float)
    jump = loss > _GROWTH * np.abs(losses).max()
    return bool(
        jump
        or totals[late].max() > _GROWTH * np.median(totals)
        or max(losses[late]) > _GROWTH * np.median(np.abs(losses))
    )


def _to_try(*, lasting: bool, grew: bool) -> str:
    if not grew:
        return (
            "No clip prevents this: look for a NaN or Inf in the batch, and for a "
            "logarithm, a root or a division at 0 in the loss"
        )
    if not lasting:
        return "Look for a bad batch"
    return "Clip by norm, lower the learning rate, or scale the targets"


def _first_bad_loss(records: Records) -> int | None:
    """Return the first row whose loss is Inf, or NaN where one was known before."""
    known = ~np.isnan(records.loss)  # NaN stands for a loss that was never told, too
    bad = np.flatnonzero(~np.isfinite(records.loss) & np.logical_or.accumulate(known))
    return int(bad[0]) if len(bad) else None


def _loss_before(records: Records, row: int) -> str:
    bad = _first_bad_loss(records)
    if bad is not None and bad <= row:
        return f"The loss was not finite from step {records.steps[bad]} on."
    if np.isnan(records.loss[row]):
        return "The loss was NaN from the start, or not recorded."
    return "The loss was still finite."
