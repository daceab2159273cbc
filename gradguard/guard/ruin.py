"""Which tensors of a state are ruined: weights that are not finite, buffers that hold NaN."""

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from gradguard.gradients.norms import plain
from gradguard.gradients.sharding import local
from gradguard.guard.culprits import counts


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
    by_device: dict[torch.device, list[Tensor]] = {}
    for name, part in parts:
        bad = part.isnan() if name in buffers else ~part.isfinite()
        by_device.setdefault(bad.device, []).append(bad.any())
    flags = {
        device: iter(torch.stack(found).tolist()) for device, found in by_device.items()
    }
    return {name: str(counts(part)) for name, part in parts if next(flags[part.device])}


def _parts(entry: Any) -> Iterator[Tensor]:
    """Yield the numbers of a tensor that lie on this rank, if it holds any that can be ruined."""
    if not isinstance(entry, Tensor):
        return
    if hasattr(entry, "local_shards"):  # as FSDP1 has them in a state dict
        shards = [shard.tensor for shard in entry.local_shards()]
    else:
        shards = [local(entry)]
    for shard in shards:
        if (shard.is_floating_point() or shard.is_complex()) and not shard.is_meta:
            yield plain(shard)
