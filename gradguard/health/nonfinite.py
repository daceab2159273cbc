"""Findings about what is not finite, or too large for float32."""

import numpy as np

from gradguard.health.finding import Finding
from gradguard.health.steps import updates
from gradguard.health.words import chosen, named, share
from gradguard.record import Records


def exploded(records: Records) -> list[Finding]:
    """Find the first update made of a non-finite gradient, and who was first."""
    applied = updates(records)
    bad = applied.nonfinite
    if not bad.any():
        return []
    row = int(np.argmax(bad))
    holders = ~np.isfinite(applied.before[row]) & ~applied.missing[row]
    first = chosen(applied, holders)
    held = "Inf" if np.isinf(applied.before[row, holders]).any() else "NaN"
    step = int(applied.steps[row])
    lasting = bool(bad[-1])
    return [
        Finding(
            "exploded",
            "error" if lasting else "warning",
            f"The gradient is not finite at step {step} ({held} in {named(first)}), "
            f"and on {share(bad)}. {_loss_before(applied, row)}",
            "Clip by norm, lower the learning rate, or scale the targets; "
            'on_nonfinite="skip" keeps such a step from the weights.'
            if lasting
            else 'Look for a bad batch; on_nonfinite="skip" keeps such a step from the '
            "weights.",
            step,
            first[0],
            {"nonfinite_steps": float(bad.sum()), "parameters": float(len(first))},
        )
    ]


def nonfinite_loss(records: Records) -> list[Finding]:
    """Find a loss that is not finite over finite gradients."""
    applied = updates(records)
    row = _first_bad_loss(applied)
    if row is None or applied.nonfinite[: row + 2].any():
        return []  # the gradient went with it: that is `exploded`
    step = int(applied.steps[row])
    return [
        Finding(
            "nonfinite-loss",
            "warning",
            f"The loss is {applied.loss[row]} at step {step}, over finite gradients.",
            "Look at the loss function: a logarithm, a division or a sum that "
            "overflows.",
            step,
        )
    ]


def overflow(records: Records) -> list[Finding]:
    """Find finite gradients whose norm float32 cannot hold, and steps lost to that."""
    applied = updates(records)
    large = applied.overflow
    if not large.any():
        return []
    row = int(np.argmax(large))
    lost = large & (applied.total_after == 0)
    step, total = int(applied.steps[row]), float(applied.total_before[row])
    numbers = {"total_before": total, "overflow_steps": float(large.sum())}
    if lost.any():
        return [
            Finding(
                "frozen",
                "error",
                f"The clip made {share(lost)} zero: from step {step} the total of "
                f"finite gradients, {total:.2g}, overflows a float32 norm.",
                "Clip with gradguard, which takes such a norm in float64, and start "
                "from smaller weights.",
                step,
                numbers=numbers | {"lost_steps": float(lost.sum())},
            )
        ]
    return [
        Finding(
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
    ]


def refused(records: Records) -> list[Finding]:
    """Count the steps that gradguard kept from the weights."""
    if not records.refused.any():
        return []
    step = int(records.steps[np.argmax(records.refused)])
    return [
        Finding(
            "refused",
            "warning",
            f"gradguard skipped {share(records.refused)} for a non-finite gradient, "
            f"the first at step {step}.",
            "A few are bad batches; many are a learning rate that is too high or a "
            "clip that is missing.",
            step,
            numbers={"refused_steps": float(records.refused.sum())},
        )
    ]


def _first_bad_loss(records: Records) -> int | None:
    """Return the first row whose loss is NaN or Inf, where a loss was known before."""
    bad = ~np.isfinite(records.loss)
    if not bad.any() or bad.all():
        return None
    unknown = int(np.argmin(bad))  # NaN stands for a loss that was never told, too
    later = np.flatnonzero(bad[unknown:])
    return unknown + int(later[0]) if len(later) else None


def _loss_before(records: Records, row: int) -> str:
    bad = _first_bad_loss(records)
    if bad is None or bad > row:
        return "The loss was still finite."
    step = int(records.steps[bad])
    return f"The loss was not finite from step {step} on."
