"""All that can be found out about a bad step, in one go."""

from collections.abc import Callable

from gradguard.replay.cause import Replay
from gradguard.replay.precision import precision
from gradguard.replay.rerun import Rerun, is_broken
from gradguard.replay.samples import samples
from gradguard.replay.trace import trace


def investigate(
    rerun: Rerun,
    *,
    loss_scale: float = 1.0,
    spike: bool = False,
    progress: Callable[[], None] | None = None,
) -> Replay:
    """Return what broke a step, which samples do it, and in which precision.

    The module is left as it was before the step, with no gradients.

    Args:
        rerun: The step.
        loss_scale: That the step multiplies its loss with.
        spike: Whether the gradient of the step is finite and large.
        progress: Called after each run of the step.
    """
    rerun.progress = progress
    outcome = rerun()
    cause = trace(rerun, loss_scale=loss_scale)
    broke = cause is not None or is_broken(outcome)
    which = samples(rerun, spike=not broke) if broke or spike else None
    wider = precision(rerun) if broke else None
    rerun.restore()
    return Replay(outcome=outcome, cause=cause, samples=which, precision=wider)
