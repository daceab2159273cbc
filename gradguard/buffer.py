"""Steps wait here, on the device of the gradients, until one copy takes them to the host."""

import numpy as np
import torch
from torch import Tensor

from gradguard.record import Records, from_stored

_MAX_STEPS = 1000
_MAX_BYTES = 64 * 2**20


class Buffer:
    """Keep loss and norms of up to `capacity` steps without a host sync.

    Args:
        num_parameters: Parameters in a row, `P`.
        capacity: Steps between two drains; cut so that the buffer stays under 64 MiB.
        device: Where the gradients are.
    """

    def __init__(
        self, num_parameters: int, capacity: int, device: torch.device
    ) -> None:
        row_bytes = 4 * (1 + 2 * num_parameters)
        self.capacity = max(1, min(capacity, _MAX_STEPS, _MAX_BYTES // row_bytes))
        self.steps: list[int] = []
        self._num_parameters = num_parameters
        # One block, so that one copy takes everything: a row is the loss, the norms
        # before and the norms after.
        self._block = torch.empty(self.capacity, 1 + 2 * num_parameters, device=device)

    @property
    def full(self) -> bool:
        """Whether as many steps have passed as the buffer was made for."""
        return len(self.steps) >= self.capacity

    @property
    def last(self) -> Tensor:
        """Norms before and after of the step put in last, `[2, P]`, on the device."""
        return self._norms(len(self.steps) - 1)

    def put(self, step: int, before: Tensor, after: Tensor) -> None:
        """Add a step: norms `[P]` each, negative where a parameter has no gradient."""
        row = len(self.steps)
        if row == len(self._block):  # several steps a batch; drained at its end only
            self._block = torch.cat([self._block, torch.empty_like(self._block)])
        self.steps.append(step)
        self._block[row, 0] = torch.nan
        norms = self._norms(row)
        norms[0].copy_(before)
        norms[1].copy_(after)

    def put_loss(self, loss: Tensor) -> None:
        """Set the loss of the step put in last, a scalar."""
        self._block[len(self.steps) - 1, 0].copy_(loss.detach())

    def drain(self, names: tuple[str, ...], order: list[int]) -> Records:
        """Take everything out, the parameters sorted by `order` and called `names`."""
        block = self._block[: len(self.steps)].cpu().numpy()
        norms = block[:, 1:].reshape(len(block), 2, -1)[:, :, order]
        steps = np.array(self.steps, dtype=np.int64)
        self.steps = []
        # Copies: the block is written over while others still read the records.
        return from_stored(
            names, steps, np.moveaxis(norms, 1, 2).copy(), block[:, 0].copy()
        )

    def _norms(self, row: int) -> Tensor:
        return self._block[row, 1:].view(2, self._num_parameters)
