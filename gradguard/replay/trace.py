"""The first operation that broke a step, found by following back what reached the end."""

from gradguard.replay.cause import Cause
from gradguard.replay.rerun import Rerun


def trace(rerun: Rerun, *, loss_scale: float = 1.0) -> Cause | None:
    """Return what broke the step; None if nothing did."""
    raise NotImplementedError
