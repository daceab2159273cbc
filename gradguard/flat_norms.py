"""Norms of many small gradients on the CPU, laid end to end."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradguard.norms import Gradients

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
    sizes = [tensor.numel() for tensor in tensors]
    small = [place for place, size in enumerate(sizes) if 0 < size <= _SMALL]
    if len(small) <= _FEW:
        return gradients.norms()
    if len(small) == len(sizes):
        return torch.from_numpy(_flat_norms(tensors, sizes)).float()
    large = sorted({*range(len(tensors))} - {*small})
    rest = Gradients([tensors[place] for place in large]).norms()
    norms = torch.empty(len(tensors), dtype=rest.dtype)
    norms.numpy()[large] = rest.numpy()
    norms.numpy()[small] = _flat_norms(
        [tensors[place] for place in small], [sizes[place] for place in small]
    )
    return norms


def _flat_norms(tensors: list[Tensor], sizes: Sequence[int]) -> NDArray[np.float64]:
    flat = torch._C._nn.flatten_dense_tensors(tensors)  # as DDP's buckets
    squares = np.square(flat.numpy(), dtype=np.float64)
    return np.sqrt(np.add.reduceat(squares, _starts(tuple(sizes))))


@lru_cache(maxsize=16)
def _starts(sizes: tuple[int, ...]) -> NDArray[np.intp]:
    """Return where each of some tensors begins once they lie end to end."""
    return np.cumsum((0, *sizes[:-1]), dtype=np.intp)
