"""Gradients spread over processes: local norms in, norms of the whole gradients out."""

from collections.abc import Sequence

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh

from gradguard.records.records import MISSING


class Shards:
    """Which process groups hold the shards of which parameters.

    Everything follows from the parameters, never from their gradients, which a rank may
    lack: so all ranks agree on what is reduced, and in which order.

    Args:
        parameters: The optimizer's parameters in its order, `P`.
        module: The module they belong to, which FSDP1 shards by; None if it does not.
    """

    def __init__(self, parameters: Sequence[Tensor], module: nn.Module | None) -> None:
        self._exact = any(p.dtype is torch.float64 for p in parameters)
        members: dict[distributed.ProcessGroup, list[int]] = {}
        fsdp1 = _fsdp1_groups(module)
        for position, parameter in enumerate(parameters):
            for group in _mesh_groups(parameter) or fsdp1.get(parameter, []):
                members.setdefault(group, []).append(position)
        self._members = [
            (group, torch.tensor(positions, device=parameters[0].device))
            for group, positions in members.items()
        ]

    def __bool__(self) -> bool:
        return bool(self._members)

    @torch.no_grad()
    def reduce(self, norms: Tensor) -> Tensor:
        """Return ||g_i||_2 = sqrt(sum over the shards of ||shard||_2^2), `[P]`.

        One collective per mesh dimension, over squares in float64; a gradient is
        missing only where every shard is.

        Args:
            norms: Norms of what this rank holds, `[P]`, negative where it holds no
                gradient.
        """
        squares = norms.double().square()
        present = (~(norms < 0)).double()
        added, holders = self.add(torch.stack([squares * present, present]))
        whole = torch.where(holders > 0, added.sqrt(), MISSING)
        # The dtype must not depend on a rank's own shards: coefficients would differ.
        return whole if self._exact else whole.float()

    @torch.no_grad()
    def add(self, parts: Tensor) -> Tensor:
        """Return the sums over the shards of what this rank knows of its own.

        Args:
            parts: `[..., P]`; left as it is.
        """
        sums = parts.clone()
        for group, positions in self._members:
            part = sums[..., positions]
            distributed.all_reduce(part, group=group)
            sums[..., positions] = part
        return sums


def local(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that lies on this rank, itself if it is whole."""
    part: Tensor = getattr(tensor, "_local_tensor", tensor)
    return part


def _mesh_groups(parameter: Tensor) -> list[distributed.ProcessGroup]:
    """Return the group of every mesh dimension over which a DTensor is split."""
    if not hasattr(parameter, "placements"):
        return []
    # Not `is_shard()`, which is False for the strided shards of FSDP2 with TP.
    mesh: DeviceMesh = parameter.device_mesh  # type: ignore[attr-defined] # a DTensor
    return [
        mesh.get_group(dimension)
        for dimension, placement in enumerate(parameter.placements)
        if not placement.is_replicate() and not placement.is_partial()
    ]


def _fsdp1_groups(
    module: nn.Module | None,
) -> dict[Tensor, list[distributed.ProcessGroup]]:
    """Return the sharding group of every parameter below an FSDP1 module."""
    processes = distributed.is_available() and distributed.is_initialized()
    if module is None or not processes:
        return {}
    # Slow to import, and without processes there is nothing to find.
    from torch.distributed.fsdp import (  # noqa: PLC0415
        FullyShardedDataParallel,
        ShardingStrategy,
    )

    groups: dict[Tensor, list[distributed.ProcessGroup]] = {}
    for wrapped in FullyShardedDataParallel.fsdp_modules(module):
        group = wrapped.process_group
        if group and wrapped.sharding_strategy is not ShardingStrategy.NO_SHARD:
            groups |= {parameter: [group] for parameter in wrapped.parameters()}
    return groups
