"""The tensors inside a batch, whatever containers it is made of, and its samples."""

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


def changed(batch: Any, change: Callable[[Any], Any]) -> Any:
    """Return the batch in containers of the same kinds, all that is in them changed.

    Lists without tensors, such as the names of files, are changed as a whole.
    """
    if isinstance(batch, list | tuple) and _holds_tensors(batch):
        inner = [changed(value, change) for value in batch]
        return type(batch)(*inner) if hasattr(batch, "_fields") else type(batch)(inner)
    if isinstance(batch, dict):
        copied = copy.copy(batch)
        copied.update({key: changed(inner, change) for key, inner in batch.items()})
        return copied
    if _has_fields(batch):
        copied = copy.copy(batch)
        for name, inner in vars(batch).items():
            object.__setattr__(copied, name, changed(inner, change))
        return copied
    return change(batch)


def size(batch: Any) -> int | None:
    """Return the common first dimension of a batch's tensors; None if there is none.

    Tensors without dimensions belong to all samples.
    """
    sizes = {tensor.shape[0] for _, tensor in tensors(batch) if tensor.dim()}
    return sizes.pop() if len(sizes) == 1 else None


def picked(batch: Any, samples: Sequence[int]) -> Any:
    """Return the batch of these samples only, from a batch that has a size."""
    whole = size(batch)

    def pick(value: Any) -> Any:
        if isinstance(value, Tensor) and value.dim():
            return value[torch.tensor(samples, device=value.device)]
        if isinstance(value, list) and len(value) == whole:
            return [value[sample] for sample in samples]
        return value

    return changed(batch, pick)


def _holds_tensors(batch: Any) -> bool:
    return any(True for _ in tensors(batch))


def _inside(batch: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(batch, Mapping):
        yield from ((f"[{key!r}]", inner) for key, inner in batch.items())
    elif isinstance(batch, list | tuple):
        yield from ((f"[{place}]", inner) for place, inner in enumerate(batch))
    elif _has_fields(batch):
        yield from ((f".{name}", inner) for name, inner in vars(batch).items())


def _has_fields(batch: Any) -> bool:
    """Whether a batch is a dataclass, or an object of the user's with tensors inside."""
    if isinstance(batch, Tensor | type) or not hasattr(batch, "__dict__"):
        return False
    held = vars(batch).values()
    return is_dataclass(batch) or any(
        isinstance(inner, Tensor | Mapping | list | tuple) for inner in held
    )
