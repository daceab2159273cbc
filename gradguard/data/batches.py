"""Batches of tensors that are in memory already."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor


class Batches:
    """Yield ceil(N / batch_size) batches of tensors of N rows, the last one shorter.

    Not a `DataLoader`, because there is nothing for its workers to load and Lightning
    warns about every DataLoader without workers; nor is anything gained by collating
    samples one by one. Shuffling draws from torch's global generator, once per epoch.
    In distributed training every process sees all batches, since Lightning shards
    DataLoaders only.

    Args:
        tensors: Tensors whose first dimension is N.
        batch_size: Rows per batch; `None` for all N.
        shuffle: Whether each pass takes the rows in a new random order.

    Example:
        >>> [batch.tolist() for (batch,) in Batches(torch.arange(5), batch_size=2)]
        [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self, *tensors: Tensor, batch_size: int | None = None, shuffle: bool = False
    ) -> None:
        self.tensors = tensors
        self.num_rows = len(tensors[0])
        self.batch_size = self.num_rows if batch_size is None else batch_size
        self.shuffle = shuffle

    def __len__(self) -> int:
        return math.ceil(self.num_rows / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        arrange = torch.randperm if self.shuffle else torch.arange
        for rows in torch.split(arrange(self.num_rows), self.batch_size):
            yield tuple(tensor[rows] for tensor in self.tensors)
