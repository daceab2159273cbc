"""The tensors inside a batch, whatever containers it is made of."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor


def tensors(batch: Any, path: str = "batch") -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor of a batch with its path, such as "batch['image'][0]"."""
    if isinstance(batch, Tensor):
        yield path, batch
        return
    for key, inner in _inside(batch):
        yield from tensors(inner, f"{path}{key}")


def changed(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return the batch in containers of the same kinds, each tensor changed."""
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(changed(inner, change) for inner in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(changed(inner, change) for inner in batch)
    if isinstance(batch, dict):
        copied = copy.copy(batch)
        copied.update({key: changed(inner, change) for key, inner in batch.items()})
        return copied
    if _has_fields(batch):
        copied = copy.copy(batch)
        for name, inner in vars(batch).items():
            object.__setattr__(copied, name, changed(inner, change))
        return copied
    return change(batch) if isinstance(batch, Tensor) else batch


def size(batch: Any) -> int | None:
    """Return the common first dimension of a batch's tensors; None if there is none.

    Tensors without dimensions, and what is no tensor, belong to all samples.
    """
    sizes = {tensor.shape[0] for _, tensor in tensors(batch) if tensor.dim()}
    return sizes.pop() if len(sizes) == 1 else None


def picked(batch: Any, samples: Sequence[int]) -> Any:
    """Return the batch of these samples only, from a batch that has a size."""
    index = torch.tensor(samples)

    def of_tensor(tensor: Tensor) -> Tensor:
        return tensor[index.to(tensor.device)] if tensor.dim() else tensor

    return changed(batch, of_tensor)


def _inside(batch: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(batch, Mapping):
        yield from ((f"[{key!r}]", inner) for key, inner in batch.items())
    elif isinstance(batch, list | tuple):
        yield from ((f"[{place}]", inner) for place, inner in enumerate(batch))
    elif _has_fields(batch):
        yield from ((f".{name}", inner) for name, inner in vars(batch).items())


def _has_fields(batch: Any) -> bool:
    """Whether a batch is a dataclass or an object of the user's that holds tensors."""
    held = getattr(batch, "__dict__", {})
    return is_dataclass(batch) or any(
        isinstance(inner, Tensor | Mapping | list | tuple) for inner in held.values()
    )
