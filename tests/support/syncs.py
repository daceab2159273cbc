"""Counting what makes the host wait, without an accelerator to wait for."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Syncs(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch's
    """Counts what makes the host wait for an accelerator."""

    count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        waits = (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero)
        Syncs.count += func.overloadpacket in waits
        return func(*args, **kwargs or {})
