"""The random generators a step may draw from: their state, and how to set it again."""

import random
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """Return the state of every generator, made of tensors and plain Python only."""
    kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 (the generator users seed)
    return {
        "torch": torch.get_rng_state(),
        "cuda": _of_cuda(),
        # Of 32 bits without a sign, which older releases of torch do not have.
        "numpy": (kind, torch.from_numpy(np.asarray(keys, np.int64)), *rest),
        "python": random.getstate(),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Set every generator as it was when `random_state` was called.

    Those of accelerators only where there are as many as there were.
    """
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002 (the generator users seed)
    random.setstate(state["python"])


def _of_cuda() -> list[torch.Tensor]:
    """Return the states of all devices, none where CUDA is not in use: asking would start it."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call] # torch's
        return []
    return torch.cuda.get_rng_state_all()
