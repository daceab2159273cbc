"""Batches of tensors that are in memory already."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, distributed


class Batches:
    """Yield ceil(N / batch_size) batches of tensors of N rows, the last one shorter.

    Not a `DataLoader`, because there is nothing for its workers to load and Lightning
    warns about every DataLoader without workers; nor is anything gained by collating
    samples one by one. Shuffling draws from torch's global generator, once per epoch.

    Args:
        tensors: Tensors whose first dimension is N.
        batch_size: Rows per batch; `None` for all N.
        shuffle: Whether each pass takes the rows in a new random order.
        sharded: Whether each process of distributed training takes its share of the
            rows, all shares alike; Lightning does that for a DataLoader only. The
            processes must share their seed, as `seed_everything` sees to.

    Examples:
        >>> [batch.tolist() for (batch,) in Batches(torch.arange(5), batch_size=2)]
        [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        *tensors: Tensor,
        batch_size: int | None = None,
        shuffle: bool = False,
        sharded: bool = False,
    ) -> None:
        self.tensors = tensors
        self.num_rows = len(tensors[0])
        self.batch_size = self.num_rows if batch_size is None else batch_size
        self.shuffle = shuffle
        self.sharded = sharded

    def __len__(self) -> int:
        _, num_shares = self._share()
        return math.ceil(self.num_rows // num_shares / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        share, num_shares = self._share()
        arrange = torch.randperm if self.shuffle else torch.arange
        even = self.num_rows - self.num_rows % num_shares
        rows = arrange(self.num_rows)[share:even:num_shares]
        for batch in torch.split(rows, self.batch_size):
            yield tuple(tensor[batch] for tensor in self.tensors)

    def _share(self) -> tuple[int, int]:
        if self.sharded and distributed.is_available() and distributed.is_initialized():
            return distributed.get_rank(), distributed.get_world_size()
        return 0, 1
