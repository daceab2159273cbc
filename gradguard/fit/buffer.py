"""Steps wait here, on the device of the gradients, until one copy takes them to the host."""

import numpy as np
import torch
from torch import Tensor

from gradguard.records.records import Records, from_stored

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
        self._device = device
        self._unknown = torch.tensor(torch.nan, device=device)
        # Kept as they come, and laid side by side once: a step is not worth a kernel.
        self._before: list[Tensor] = []
        self._after: list[Tensor] = []
        self._loss: list[Tensor | float] = []

    @property
    def full(self) -> bool:
        """Whether as many steps have passed as the buffer was made for."""
        return len(self.steps) >= self.capacity

    def put(self, step: int, before: Tensor, after: Tensor) -> None:
        """Add a step: norms `[P]` each, negative where a parameter has no gradient.

        The norms are kept, not copied: they must not be changed in place afterwards.
        """
        self.steps.append(step)
        self._before.append(before.to(self._device))
        self._after.append(after.to(self._device))
        self._loss.append(self._unknown)

    def put_loss(self, loss: Tensor | float) -> None:
        """Set the loss of the step put in last, a number or a tensor of one element."""
        if isinstance(loss, Tensor):
            # A copy: the loss may be part of something large, or be changed in place.
            loss = (
                loss.item()
                if loss.is_cpu
                else loss.detach().to(self._device, copy=True)
            )
        self._loss[-1] = loss

    def drain(self, names: tuple[str, ...], order: list[int]) -> Records:
        """Take everything out, the parameters sorted by `order` and called `names`."""
        count, loss = len(self.steps), self._losses()
        block = torch.cat([*self._before, *self._after, loss])
        flat = block.float().cpu().numpy()
        norms = flat[:-count].reshape(2, count, -1)[:, :, order]
        steps = np.array(self.steps, dtype=np.int64)
        for emptied in (self.steps, self._before, self._after, self._loss):
            emptied.clear()
        return from_stored(names, steps, np.moveaxis(norms, 0, -1), flat[-count:])

    def _losses(self) -> Tensor:
        if self._device.type == "cpu":
            return torch.tensor(list(map(float, self._loss)))
        each = [torch.as_tensor(loss, device=self._device) for loss in self._loss]
        return torch.stack([loss.reshape(()) for loss in each])
