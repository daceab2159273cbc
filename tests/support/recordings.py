"""Recordings made of numbers, for what no bundled run does on demand."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import ArrayLike

from gradguard.records import old_clips
from gradguard.records.recording import ClipInForce, Recording
from gradguard.records.records import from_stored

NAN, INF = float("nan"), float("inf")

norms = st.sampled_from([0.0, 1.0, 1e-30, 1e30, NAN, INF, -1.0]) | st.floats(
    0, 1e10, width=32
)


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


@st.composite
def any_recording(draw: st.DrawFn) -> Recording:
    """Anything that can be written, down to no step at all."""
    shape = draw(st.tuples(st.integers(0, 16), st.integers(1, 7)))
    before, after = (draw(arrays(np.float32, shape, elements=norms)) for _ in range(2))
    after[draw(arrays(np.bool_, shape))] = -2.0
    losses = st.floats(width=32)
    loss = draw(arrays(np.float32, shape[:1], elements=losses))
    clip = draw(st.sampled_from(["", "ClipNorm(max_norm=1.0, per_parameter=False)"]))
    unoptimized = draw(st.sampled_from([(), ("head.weight",)]))
    return recording(before, after, loss=loss, clip=clip, unoptimized=unoptimized)
