"""Tensors that a step finds: weights, buffers, batches, and attributes of modules."""

from typing import NamedTuple

from torch import Tensor, nn

from gradguard.replay.batch import tensors
from gradguard.replay.cause import Kind
from gradguard.replay.origins import Leaf
from gradguard.replay.rerun import Batches
from gradguard.replay.site import Site, readable
from gradguard.replay.values import broken_rows, place, values


class Outside:
    """Name tensors by the memory they are in.

    Args:
        module: Whose weights, buffers and other attributes they may be.
        batches: Of the step, by position in the accumulation window.
    """

    def __init__(self, module: nn.Module, batches: Batches) -> None:
        self._known: dict[int, _Name] = {}
        for path, inner in module.named_modules():
            for name, held in vars(inner).items():
                if isinstance(held, Tensor):
                    self._add(held, "constant", _joined(path, name), path)
        for name, buffer in module.named_buffers():
            self._add(buffer, "buffer", name, name.rpartition(".")[0])
        for name, parameter in module.named_parameters():
            self._add(parameter, "weight", name, name.rpartition(".")[0])
        for position, batch in batches.items():
            for path, tensor in tensors(batch):
                self._add(tensor, "batch", path, "", position)

    def micro_batch(self, tensor: Tensor) -> int | None:
        """Return the position of the batch a tensor belongs to; None if to none."""
        name = self._known.get(place(tensor))
        return name.micro_batch if name else None

    def knows(self, tensor: Tensor) -> bool:
        """Return whether a tensor is one of those that were there before the step."""
        return place(tensor) in self._known

    def leaf(self, tensor: Tensor, site: Site, micro_batch: int) -> Leaf:
        """Return a broken tensor as a beginning, first used at the site."""
        name = self._known.get(place(tensor)) or _UNKNOWN
        held = name.tensor if name.tensor is not None else tensor
        output = values(held, "value")
        return Leaf(
            kind=name.kind,
            name=name.name,
            module=name.module,
            site=site,
            output=output,
            rows=broken_rows(held),
            micro_batch=micro_batch,
            deliberate=name.kind != "weight" and not output.nan + output.plus_inf,
            place=place(tensor),
        )

    def _add(
        self,
        tensor: Tensor,
        kind: Kind,
        name: str,
        module: str,
        micro_batch: int | None = None,
    ) -> None:
        if tensor.numel():
            named = _Name(kind, readable(name), readable(module), micro_batch, tensor)
            self._known[place(tensor)] = named


class _Name(NamedTuple):
    kind: Kind
    name: str
    module: str
    micro_batch: int | None
    tensor: Tensor | None


_UNKNOWN = _Name("constant", "a tensor that no operation made", "", None, None)


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
