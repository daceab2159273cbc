"""What one arm takes by itself in a process of its own: memory, and syncs with the GPU."""

import re
import tempfile
import warnings
from pathlib import Path

import torch
from arms import ARMS, BASELINE
from measure import quiet, training
from models import WORKLOADS


def toll(arm: str | None, model: str, steps: int) -> tuple[int, float]:
    """Train; return the peak of resident memory in bytes, and host syncs per step.

    On a GPU the peak is of its memory, which Lightning and gradguard share.

    Args:
        arm: Key of `ARMS`, None for the baseline.
        model: Key of `WORKLOADS`.
        steps: How many.
    """
    quiet()
    torch.set_num_threads(1)
    chosen = BASELINE if arm is None else ARMS[arm]
    with (
        tempfile.TemporaryDirectory() as scratch,
        training(chosen, WORKLOADS[model], Path(scratch)) as turns,
    ):
        turns.train(1)
        if not torch.cuda.is_available():
            turns.train(steps)
            return _peak_resident(), 0.0
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            turns.train(steps)
            torch.cuda.set_sync_debug_mode("default")
        syncs = sum("synchronizing" in str(each.message) for each in said)
        return torch.cuda.max_memory_allocated(), syncs / steps


def _peak_resident() -> int:
    # Not `getrusage`, which also counts what the parent process held.
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.findall(r"VmHWM:\s+(\d+)", status)[0])
