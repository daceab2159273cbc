"""What one backward pass left at each weight, and what follows from layer to layer."""

import math
import re
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Layer:
    """A weight of two or more dimensions, with its gradient; nothing has clipped it.

    Attributes:
        name: Name of the parameter.
        shape: Its shape.
        weight_sd: Standard deviation of its elements.
        norm_before: L2 norm of its gradient.
        mean_abs_before: Mean absolute value of its gradient's elements.
        signal_before: L2 norm of the gradient of the loss by the output of the module
            that holds the weight; NaN where that is no tensor.
    """

    name: str
    shape: tuple[int, ...]
    weight_sd: float
    norm_before: float
    mean_abs_before: float
    signal_before: float


@dataclass(frozen=True)
class Recurrence:
    """A weight that leads from one time step to the next.

    Attributes:
        name: Name of the parameter, with the number of its block where it stacks gates.
        spectral_norm: Its largest singular value.
    """

    name: str
    spectral_norm: float


@dataclass(frozen=True)
class Inspection:
    """One forward and one backward pass of an untrained network.

    Attributes:
        subject: What the network is, in words.
        loss: Its value.
        loss_of: What it is the loss of, in words.
        layers: Weights in model order.
        recurrences: Recurrent weights.
        nonfinite_outputs: Modules whose output held a NaN or an Inf, in model order.
    """

    subject: str
    loss: float
    loss_of: str
    layers: tuple[Layer, ...]
    recurrences: tuple[Recurrence, ...]
    nonfinite_outputs: tuple[str, ...]

    @cached_property
    def chain(self) -> tuple[Layer, ...]:
        """The weights that are compared: most numerous of one kind, none if all differ.

        Weights are of one kind if they have the same shape, and names that differ in
        numbers only, as `hidden.1.weight` and `hidden.2.weight`. So the first and the
        last layer of a network, which have other shapes, are left out.
        """
        kinds: dict[tuple[str, tuple[int, ...]], list[Layer]] = {}
        for layer in self.layers:
            kinds.setdefault((re.sub(r"\d+", "#", layer.name), layer.shape), []).append(
                layer
            )
        longest = max(kinds.values(), key=len, default=[])
        return tuple(longest) if len(longest) > 1 else ()

    def factors(self, kind: str) -> dict[str, float]:
        """Return norm / norm of the next layer, by name, along the chain but for its last.

        Args:
            kind: Which norm, `norm_before` or `signal_before`.
        """
        norms = [getattr(layer, kind) for layer in self.chain]
        return {
            layer.name: ratio(norm, following)
            for layer, norm, following in zip(
                self.chain, norms, norms[1:], strict=False
            )
        }

    def factor(self, kind: str) -> float:
        """Return the geometric mean of `factors`; NaN if there are none."""
        if not self.chain:
            return math.nan
        first, last = (getattr(self.chain[end], kind) for end in (0, -1))
        return float(ratio(first, last) ** (1 / (len(self.chain) - 1)))

    @property
    def first_to_last(self) -> float:
        """||gradient of the first weight|| / ||gradient of the chain's last weight||."""
        if not self.chain:
            return math.nan
        return ratio(self.layers[0].norm_before, self.chain[-1].norm_before)

    @property
    def total_before(self) -> float:
        """L2 norm of the gradients of all weights together."""
        return math.hypot(*(layer.norm_before for layer in self.layers))


def ratio(above: float, below: float) -> float:
    """Return above / below, with NaN for 0 / 0 and Inf for anything else over 0."""
    if below == 0:
        return math.nan if above == 0 or math.isnan(above) else math.inf
    return above / below
