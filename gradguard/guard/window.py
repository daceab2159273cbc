"""The batches since gradients were zero, and what they found: buffers, at times weights."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.utils._pytree import (
    keystr,
    tree_flatten_with_path,
    tree_leaves,
    tree_map_only,
)

from gradguard.gradients.sharding import local
from gradguard.guard.random_state import random_state

# What an attribute may be, or be made of, to be kept.
_KEPT = (bool, int, float, str, Tensor, tuple, list, dict)


class SeenBatch:
    """A batch as its step began.

    Args:
        batch: The batch itself, not a copy.
        batch_idx: Its index in the epoch.

    Attributes:
        random_state: What its step draws from.
    """

    def __init__(self, batch: Any, batch_idx: int) -> None:
        self.batch = batch
        self.batch_idx = batch_idx
        self.random_state = random_state()
        self._versions = list(map(_version, tree_leaves(batch)))

    def changed(self) -> list[str]:
        """Name the tensors of the batch that were changed in place since, as "batch[0]"."""
        found, _ = tree_flatten_with_path(self.batch)
        if len(found) != len(self._versions):
            return ["batch"]
        return [
            f"batch{keystr(path)}"
            for (path, leaf), version in zip(found, self._versions, strict=True)
            if _version(leaf) != version
        ]


class Window:
    """What an update is made of: the batches since the last one, and how they began.

    The batches stay alive, on the device they are on, until the next window opens.

    Args:
        module: Whose buffers are copied as a window opens.

    Attributes:
        batches: The batches.
        buffers: The module's buffers by name, from before the first batch.
        attributes: Numbers, texts and tensors that the module itself held in attributes
            then, such as the hidden state that the last batch has left.
        weights: Its parameters by name from then, where they were copied; else None.
        optimizers: The states of the optimizers from then; None as for the weights.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._owners: list[tuple[str, nn.Module]] = []
        self.batches: list[SeenBatch] = []
        self.buffers: dict[str, Tensor] = {}
        self.attributes: dict[str, Any] = {}
        self.weights: dict[str, Tensor] | None = None
        self.optimizers: list[dict[str, Any]] | None = None

    def open(self, *, is_first: bool, optimizers: Sequence[Optimizer] = ()) -> None:
        """Begin anew.

        Args:
            is_first: Whether now is the start of an epoch.
            optimizers: What may update the weights between now and the last update of
                the window: weights and states are copied if there is any.
        """
        if is_first or not self.batches:
            self._owners = _owners(self._module)
        self.batches = []
        self.buffers = self._copied_buffers()
        self.attributes = _attributes(self._module)
        self.weights = self.optimizers = None
        if optimizers:
            self.optimizers = [deepcopy(each.state_dict()) for each in optimizers]
            found = weights(self._module)
            self.weights = {name: value.clone() for name, value in found.items()}

    def add(self, batch: Any, batch_idx: int) -> None:
        """Take in a batch whose step begins now."""
        self.batches.append(SeenBatch(batch, batch_idx))

    def _copied_buffers(self) -> dict[str, Tensor]:
        held = {
            f"{prefix}{name}": local(buffer.detach())
            for prefix, owner in self._owners
            for name, buffer in owner._buffers.items()
            if buffer is not None and not is_lazy(buffer)
        }
        return dict(zip(held, _copies(list(held.values())), strict=True))


def weights(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's parameters by name; of those in shards, this process's part."""
    return {name: local(p.detach()) for name, p in module.named_parameters()}


def _copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copy tensors, those of one type and device in one pass where the device can."""
    copies = [torch.empty_like(tensor) for tensor in tensors]
    alike: dict[
        tuple[torch.dtype, torch.device], tuple[list[Tensor], list[Tensor]]
    ] = {}
    for copy, tensor in zip(copies, tensors, strict=True):
        to, of = alike.setdefault((tensor.dtype, tensor.device), ([], []))
        to.append(copy)
        of.append(tensor)
    for to, of in alike.values():
        torch._foreach_copy_(to, of)
    return copies


def _owners(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """List the modules that hold buffers; walking a whole network takes its time."""
    return [
        (f"{name}." if name else "", owner)
        for name, owner in module.named_modules()
        if owner._buffers
    ]


def _attributes(module: nn.Module) -> dict[str, Any]:
    """Return public attributes that are numbers, texts, tensors or collections of these.

    Tensors come without their graph, which would keep a whole batch in memory.
    """
    return {
        name: tree_map_only(Tensor, Tensor.detach, value)
        for name, value in vars(module).items()
        if isinstance(value, _KEPT)
        and not name.startswith("_")
        and all(isinstance(leaf, _KEPT) for leaf in tree_leaves(value))
    }


def _version(leaf: object) -> int:
    """How often a tensor was changed in place; 0 of what does not count that."""
    if not isinstance(leaf, Tensor) or leaf.is_inference():
        return 0
    return leaf._version
