"""Policies whose threshold is given: by norm, and by value."""

from dataclasses import dataclass
from math import inf

import numpy as np
import torch
from torch import Tensor

from gradguard.clipping.policy import (
    State,
    keep_plain,
    multiplied,
    require_positive,
    scale,
)
from gradguard.gradients.norms import Gradients, total_norm

# Divided by 1e-6, a larger threshold overflows float32, of which NumPy warns.
_LARGEST_ON_HOST = 1e30


@dataclass(frozen=True)
class ClipNorm:
    """g <- g * min(1, max_norm / (||g|| + 1e-6)), the norm taken over all gradients.

    ||g|| is the L2 norm, or with `norm_type=inf` the largest absolute value of an element.

    The arithmetic of `torch.nn.utils.clip_grad_norm_`, to the bit. Clipping only ever
    shrinks: a gradient below the threshold is untouched.

    Args:
        max_norm: Largest norm let through; positive, finite.
        per_parameter: Take the norm of each parameter's gradient by itself, as Keras 3
            (`clipnorm`) and Paddle (`ClipGradByNorm`) do; torch clips globally.
        norm_type: 2 or inf. Real and imaginary parts count as elements each.

    Raises:
        ValueError: If `max_norm` is not a positive finite number, or `norm_type` neither.
        NotImplementedError: If `norm_type` is inf and parameters are sharded.

    References:
        Pascanu, Mikolov, Bengio. On the difficulty of training recurrent neural
        networks. https://arxiv.org/abs/1211.5063, 2013.

    Examples:
        >>> from gradguard import Clipper
        >>> parameter = torch.nn.Parameter(torch.zeros(2))
        >>> parameter.grad = torch.tensor([3.0, 4.0])
        >>> clipped = Clipper([parameter], ClipNorm(1.0)).clip()
        >>> float(clipped.total_before), round(float(clipped.total_after), 4)
        (5.0, 1.0)
    """

    max_norm: float
    per_parameter: bool = False
    norm_type: float = 2.0

    def __post_init__(self) -> None:
        keep_plain(self)
        require_positive("max_norm", self.max_norm)
        if self.norm_type not in (2.0, inf):
            raise ValueError(f"norm_type must be 2 or inf, got {self.norm_type!r}")

    def thresholds(self, state: State) -> dict[str, float | Tensor]:  # noqa: ARG002 (a setting)
        """Return `max_norm`; see `HasThresholds`."""
        return {"": self.max_norm}

    def clip(
        self,
        gradients: Gradients,
        norms: Tensor,
        state: State,  # noqa: ARG002 (nothing is learned)
    ) -> Tensor:
        """Scale the gradients down to `max_norm`; see `Policy.clip`."""
        size = self._size(gradients, norms)
        if size.ndim or not size.is_cpu or self.max_norm > _LARGEST_ON_HOST:
            # 1e-6 and the order of the operations are torch's: results are bit-identical.
            inverse = (size + 1e-6).reciprocal_()
            return scale(gradients, norms, inverse.mul_(self.max_norm).clamp_(max=1.0))
        host = size.numpy()  # the same, without a kernel for each operation
        exact = host.dtype.type
        coefficient = exact(1) / (host[()] + exact(1e-6)) * exact(self.max_norm)
        if coefficient >= 1:
            return norms
        host[()] = coefficient
        return multiplied(gradients, norms, size)

    def _size(self, gradients: Gradients, norms: Tensor) -> Tensor:
        """Return the norm to clip, 0-d, or `[n]` per parameter."""
        if self.norm_type == 2.0:  # noqa: PLR2004 (as it is written)
            return norms if self.per_parameter else total_norm(norms)
        if gradients.are_shards:
            raise NotImplementedError(
                "ClipNorm(norm_type=inf) needs whole gradients, and these are sharded: "
                "use norm_type=2"
            )
        largest = gradients.largest().to(norms)
        return largest if self.per_parameter else torch.linalg.vector_norm(largest, inf)


@dataclass(frozen=True)
class ClipValue:
    """g <- min(max(g, -clip_value), clip_value), element by element.

    The arithmetic of `torch.nn.utils.clip_grad_value_`, to the bit. It changes the
    direction of the gradient; it turns +-Inf into +-clip_value and keeps NaN. Real and
    imaginary parts of a complex gradient are clipped each by itself. Elements know no
    parameters, so there is nothing to choose between global and per parameter.

    Args:
        clip_value: Largest absolute value let through; positive, finite.

    Raises:
        ValueError: If `clip_value` is not a positive finite number.

    References:
        Graves. Generating sequences with recurrent neural networks.
        https://arxiv.org/abs/1308.0850, 2013.
    """

    clip_value: float

    def __post_init__(self) -> None:
        keep_plain(self)
        require_positive("clip_value", self.clip_value)

    def thresholds(self, state: State) -> dict[str, float | Tensor]:  # noqa: ARG002 (a setting)
        """Return `clip_value`; see `HasThresholds`."""
        return {"": self.clip_value}

    def clip(
        self,
        gradients: Gradients,
        norms: Tensor,
        state: State,  # noqa: ARG002 (nothing is learned)
    ) -> Tensor:
        """Clamp the elements to +-`clip_value`; see `Policy.clip`."""
        if not gradients.on_host:
            self._clamp(gradients)
            return gradients.norms()
        # No element exceeds the norm of its tensor, so a smaller norm needs no pass;
        # the margin is the rounding of a float32 norm.
        untouched = norms.numpy() < self.clip_value * (1 - 1e-4)
        positions = np.flatnonzero(~untouched)
        if not positions.size:
            return norms
        large = Gradients([gradients.tensors[position] for position in positions])
        self._clamp(large)
        return norms.index_copy(0, torch.from_numpy(positions), large.norms().to(norms))

    def _clamp(self, gradients: Gradients) -> None:
        for positions in gradients.groups.values():
            tensors = gradients.at(positions)
            torch._foreach_clamp_min_(tensors, -self.clip_value)
            torch._foreach_clamp_max_(tensors, self.clip_value)
