"""Recordings made of numbers, for what no bundled run does on demand."""

import numpy as np
from numpy.typing import ArrayLike

from gradguard.records import old_clips
from gradguard.records.recording import ClipInForce, Recording
from gradguard.records.records import from_stored


def recording(
    before: ArrayLike,
    after: ArrayLike | None = None,
    *,
    loss: ArrayLike = 1.0,
    names: tuple[str, ...] = (),
    clip: str = "",
    unoptimized: tuple[str, ...] = (),
) -> Recording:
    """Return a recording of norms `[S, P]`; -1 stands for no gradient.

    `clip` is what clips, in code.
    """
    norms = np.asarray(before, np.float32)
    applied = norms if after is None else np.asarray(after, np.float32)
    records = from_stored(
        names or tuple(f"layer.{i}.weight" for i in range(norms.shape[1])),
        np.arange(len(norms)),
        np.stack([norms, np.broadcast_to(applied, norms.shape)], axis=-1),
        np.broadcast_to(np.asarray(loss, np.float32), len(norms)),
    )
    return Recording(records, (ClipInForce(0, old_clips.read(clip)),), unoptimized)
