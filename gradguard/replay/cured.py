"""What a run of the step repairs, to see whether it ends well without."""

from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor

from gradguard.replay.origins import Operation, Origin
from gradguard.replay.values import broken, place, repaired


class Cured(NamedTuple):
    """Repair outputs of operations, and tensors from before the step.

    Attributes:
        operations: By their index.
        places: Of tensors, in memory.
    """

    operations: frozenset[int] = frozenset()
    places: frozenset[int] = frozenset()

    @classmethod
    def of(cls, origins: Iterable[Origin]) -> "Cured":
        """Return what repairs these."""
        indices, places = set(), set()
        for origin in origins:
            if isinstance(origin, Operation):
                indices.add(origin.index)
            else:
                places.add(origin.place)
        return cls(frozenset(indices), frozenset(places))

    def read(self, tensor: Tensor) -> Tensor:
        """Return what an operation is to read in place of a tensor."""
        ill = place(tensor) in self.places and broken(tensor)
        return repaired(tensor) if ill else tensor


NOTHING = Cured()
