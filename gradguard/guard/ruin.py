"""Which tensors of a state are ruined: weights that are not finite, buffers that hold NaN."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from gradguard.gradients.norms import plain
from gradguard.gradients.sharding import local
from gradguard.guard.culprits import counts

# Bytes of an element of float32: the sum of smaller ones might overflow.
_SINGLE = 4


@torch.no_grad()
def ruined(
    state: Iterable[tuple[str, Any]], *, buffers: Collection[str]
) -> dict[str, str]:
    """Return what each ruined tensor holds, as "NaN" or "+Inf", by name.

    Of tensors spread over processes each knows its own shards. Inf in a buffer is no ruin:
    masks hold it, and so do running minima before their first value. Syncs once for each
    device, where nothing is ruined.

    Args:
        state: Tensors and their names, such as the items of a state dict; whatever else is
            in it is passed by.
        buffers: Names of those that are no weights.
    """
    parts = [(name, part) for name, entry in state for part in _parts(entry)]
    return {
        name: str(counts(part))
        for name, part in _suspects(parts)
        if bool((part.isnan() if name in buffers else ~part.isfinite()).any())
    }


def _suspects(parts: Sequence[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Yield tensors whose sum is not finite: whoever holds a NaN or Inf is among them.

    A sum takes one pass, a twentieth of the time that looking at each element does.
    """
    sums: dict[torch.device, list[Tensor]] = {}
    for _, part in parts:
        wide = torch.float32 if part.dtype.itemsize < _SINGLE else part.dtype
        sums.setdefault(part.device, []).append(part.sum(dtype=wide).isfinite())
    finite = {device: iter(torch.stack(each).tolist()) for device, each in sums.items()}
    return (entry for entry in parts if not next(finite[entry[1].device]))


def _parts(entry: Any) -> Iterator[Tensor]:
    """Yield the numbers of a tensor that lie on this rank, if it holds any that can be ruined."""
    if not isinstance(entry, Tensor):
        return
    if hasattr(entry, "local_shards"):  # as FSDP1 has them in a state dict
        shards = [shard.tensor for shard in entry.local_shards()]
    else:
        shards = [local(entry)]
    for shard in shards:
        numbers = shard.is_floating_point() or shard.is_complex()
        # Of one byte are the floats of quantised weights, which hold what they are given.
        if numbers and shard.dtype.itemsize > 1 and not shard.is_meta:
            yield plain(shard)
