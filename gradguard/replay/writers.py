"""Who wrote the NaN and Inf that memory holds."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gradguard.replay.origins import Operation
from gradguard.replay.site import Site
from gradguard.replay.values import memory, place


class Writers:
    """Remember which operations left NaN or Inf in which memory.

    Memory in which there are some is held, so that no other tensor takes its place.
    """

    def __init__(self) -> None:
        self._of: dict[int, list[Operation]] = {}
        self._held: list[torch.UntypedStorage] = []

    def of(self, tensor: Tensor) -> Sequence[Operation]:
        """Return who left NaN or Inf in the memory of a tensor, other parts included."""
        return self._of.get(place(tensor), ())

    def wrote(self, tensor: Tensor, operation: Operation) -> None:
        """Remember that an operation left NaN or Inf in a tensor."""
        if _is_all_of_its_memory(tensor):
            self.cleaned(tensor)
        self._held.append(memory(tensor))
        self._of.setdefault(place(tensor), []).append(operation)

    def cleaned(self, tensor: Tensor) -> None:
        """Forget who wrote a tensor before; the part of a tensor forgets nothing."""
        if _is_all_of_its_memory(tensor):
            self._of.pop(place(tensor), None)

    def hidden(self, tensor: Tensor, by: Site) -> None:
        """Remember which call made something finite of a broken tensor."""
        for writer in self.of(tensor):
            writer.hide(by.operation)


def _is_all_of_its_memory(tensor: Tensor) -> bool:
    return tensor.numel() * tensor.element_size() >= memory(tensor).nbytes()
