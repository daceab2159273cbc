"""The line to copy that runs a bad step again, or would have saved it for that."""

import shlex
from collections.abc import Iterable

from gradguard.records.recording import Recording


def command(recording: Recording, steps: Iterable[int], *, keep: str) -> str:
    """Return `gradguard replay FILE` where one of the steps was saved, else what saves it.

    Args:
        recording: Whose steps.
        steps: Updates completed before each bad step.
        keep: The argument of `GradGuard` that stops such a step.
    """
    bad = {int(step) for step in steps}
    for saved in recording.saved_steps:
        if saved.step in bad:
            return f"gradguard replay {shlex.quote(saved.file)}"
    return f'GradGuard({keep}, dump_dir="bad-steps")'
