"""The scalars of an interval, the steps between two writes: what every logger gets."""

from gradguard.records.records import Records

TOTAL_BEFORE = "gradguard/total_before"
TOTAL_BEFORE_MAX = "gradguard/total_before_max"
TOTAL_AFTER = "gradguard/total_after"
COEFFICIENT_MIN = "gradguard/coefficient_min"
CLIP_FRACTION = "gradguard/clip_fraction"
NONFINITE_STEPS = "gradguard/nonfinite_steps"
AMP_SKIPPED = "gradguard/amp_skipped"
LOSS_SCALE = "gradguard/loss_scale"
SKIPPED_STEPS = "gradguard/skipped_steps"
THRESHOLD = "gradguard/threshold"


def threshold_tag(which: str) -> str:
    """Return the tag of a threshold in force, by what tells it from the others."""
    return f"{THRESHOLD}/{which}" if which else THRESHOLD


def interval_scalars(records: Records) -> dict[str, float]:
    """Sum up the steps of one interval in the scalars every logger gets.

    A step that a gradient scaler skips while it looks for its scale is counted and
    otherwise left out: it is no alarm. One that gradguard skips is an alarm, and is left
    out of the sums only.
    """
    scalars = {
        AMP_SKIPPED: float(records.skipped.sum()),
        SKIPPED_STEPS: float(records.refused.sum()),
        NONFINITE_STEPS: float((records.nonfinite & ~records.skipped).sum()),
    }
    left_out = records.skipped | records.refused
    applied = records[~left_out] if left_out.any() else records
    if len(applied.steps):
        scalars |= {
            TOTAL_BEFORE: float(applied.total_before[-1]),
            TOTAL_BEFORE_MAX: float(applied.total_before.max()),
            TOTAL_AFTER: float(applied.total_after[-1]),
            COEFFICIENT_MIN: float(applied.coefficient.min()),
            CLIP_FRACTION: applied.clip_fraction,
        }
    return scalars
