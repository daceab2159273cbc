"""Which tensors of a state are ruined: weights that are not finite, buffers that hold NaN."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from gradguard.gradients.norms import plain
from gradguard.gradients.sharding import local
from gradguard.guard.culprits import counts


@torch.no_grad()
def ruined(state: Mapping[str, Any], *, buffers: Collection[str]) -> list[str]:
    """Return the names of ruined tensors, of which each rank knows its own shards.

    Inf in a buffer is no ruin: masks hold it, and so do running minima before their first
    value. Syncs once for each device.

    Args:
        state: Tensors by name, such as a state dict; whatever else is in it is passed by.
        buffers: Names of those that are no weights.
    """
    by_device: dict[torch.device, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        if isinstance(tensor, Tensor) and _can_be_ruined(tensor):
            elements = plain(local(tensor))
            bad = elements.isnan() if name in buffers else ~elements.isfinite()
            by_device.setdefault(bad.device, {})[name] = bad.any()
    return [
        name
        for flags in by_device.values()
        for name, bad in zip(
            flags, torch.stack([*flags.values()]).tolist(), strict=True
        )
        if bad
    ]


def in_words(state: Mapping[str, Any], names: Collection[str]) -> list[str]:
    """Return each name with what its tensor holds, as `bn.running_mean (NaN)`; syncs."""
    return [f"{name} ({counts(state[name])})" for name in names]


def _can_be_ruined(tensor: Tensor) -> bool:
    numbers = tensor.is_floating_point() or tensor.is_complex()
    return numbers and not tensor.is_meta
