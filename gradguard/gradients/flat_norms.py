"""Norms of many small gradients on the CPU, laid end to end."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradguard.gradients.norms import Gradients

_ON_CPU = (torch.float32, torch.device("cpu"))

# Elements up to which calling a kernel costs more than copying them.
_SMALL = 1024

# Tensors up to which calling a kernel for each is faster yet.
_FEW = 32


def quick_norms(gradients: Gradients) -> Tensor:
    """Return ||g_i||_2 of every gradient, `[n]`, by the fastest way there is.

    On the CPU a kernel for each small gradient costs more than its arithmetic, so many
    are copied into one. Their squares are summed in float64, where nothing overflows;
    `Gradients.norms` gives the same up to rounding, and rounds as torch's own clip does.
    """
    tensors = gradients.tensors
    if gradients.groups.keys() != {_ON_CPU} or gradients.are_shards:
        return gradients.norms()
    plan = _plan(tuple(map(Tensor.numel, tensors)))
    if len(plan.small) <= _FEW:
        return gradients.norms()
    if not plan.large:
        return torch.from_numpy(_flat_norms(tensors, plan.starts)).float()
    rest = Gradients([tensors[place] for place in plan.large]).norms()
    norms = torch.empty(len(tensors), dtype=rest.dtype)
    norms.numpy()[plan.large] = rest.numpy()
    small = [tensors[place] for place in plan.small]
    norms.numpy()[plan.small] = _flat_norms(small, plan.starts)
    return norms


def _flat_norms(tensors: list[Tensor], starts: NDArray[np.intp]) -> NDArray[np.float64]:
    flat = torch._C._nn.flatten_dense_tensors(tensors)  # as DDP's buckets
    squares = np.square(flat.numpy(), dtype=np.float64)
    return np.sqrt(np.add.reduceat(squares, starts))


class _Plan(NamedTuple):
    """Which tensors are laid end to end, where each begins there, and which are not."""

    small: list[int]
    starts: NDArray[np.intp]
    large: list[int]


@lru_cache(maxsize=16)
def _plan(sizes: tuple[int, ...]) -> _Plan:
    small = [place for place, size in enumerate(sizes) if 0 < size <= _SMALL]
    ends = np.cumsum([sizes[place] for place in small], dtype=np.intp)
    starts = np.concatenate([np.zeros(1, np.intp), ends[:-1]])
    return _Plan(small, starts, sorted({*range(len(sizes))} - {*small}))
