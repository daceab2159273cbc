"""Clip each unit's gradient by the size of the weights it is to change."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from gradguard.clipping.policy import State, keep_plain, require_positive, unmatched
from gradguard.gradients.norms import Gradients

_SMALLEST_NORM = 1e-30  # divides a zero gradient by something


@dataclass(frozen=True)
class AdaptiveClip:
    """g_i <- g_i * min(1, clipping * max(||w_i||, eps) / ||g_i||) for each unit i.

    A unit is a row: what feeds one output of a linear or convolutional layer. Biases,
    gains and scalars are one unit each. The floor `eps` lets parameters train that start
    at zero, whose update would be cut to nothing without it.

    Args:
        clipping: Largest gradient norm relative to the weights' norm; positive. The
            paper takes 0.01 for batches of 4096, up to 0.16 for smaller ones.
        eps: Smallest weight norm to reckon with; positive.
        exclude: Patterns (`fnmatch`) of parameters left alone. The paper leaves out
            the last layer: `("head.*",)`.

    Raises:
        ValueError: If a number is not positive and finite.
        NotImplementedError: If parameters are sharded, so that rows may be too.

    References:
        Brock, De, Smith, Simonyan. High-performance large-scale image recognition
        without normalization. https://arxiv.org/abs/2102.06171, 2021.
    """

    clipping: float = 0.01
    eps: float = 1e-3
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        keep_plain(self)
        require_positive("clipping", self.clipping)
        require_positive("eps", self.eps)

    def clip(
        self,
        gradients: Gradients,
        norms: Tensor,  # noqa: ARG002 (of whole gradients; units have their own)
        state: State,  # noqa: ARG002 (nothing is learned)
    ) -> Tensor:
        """Scale each unit's gradient down to its bound; see `Policy.clip`."""
        if gradients.are_shards:
            raise NotImplementedError(
                "AdaptiveClip needs whole rows of parameters, and these are sharded: "
                "use ClipNorm, AutoClip or ZClip"
            )
        for tensor, coefficient in self._coefficients(gradients):
            tensor.mul_(coefficient)
        return gradients.norms()

    def thresholds(self, state: State) -> dict[str, float | Tensor]:  # noqa: ARG002 (a setting)
        """Return `clipping`; see `HasThresholds`."""
        return {"": self.clipping}

    def check(self, names: Sequence[str]) -> None:
        """Do nothing if each excluded pattern matches a parameter; see `HasPatterns`."""
        for pattern in self.exclude:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ValueError(unmatched(pattern, names))

    def _coefficients(self, gradients: Gradients) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each gradient with what to multiply its units by."""
        for tensor, weight, parameter, name in zip(
            gradients.tensors,
            gradients.weights(),
            gradients.parameters,
            gradients.names,
            strict=True,
        ):
            if any(fnmatchcase(name, pattern) for pattern in self.exclude):
                continue
            bound = self.clipping * _unit_norms(weight, parameter.ndim).clamp(self.eps)
            size = _unit_norms(tensor, parameter.ndim).clamp(_SMALLEST_NORM)
            coefficient = (bound / size).clamp(max=1.0)
            exact = tensor.dtype is torch.float64
            yield tensor, coefficient if exact else coefficient.float()


def _unit_norms(tensor: Tensor, num_dimensions: int) -> Tensor:
    """Return the norm of each row, `[rows, 1, ...]`, or of all if a row is a number."""
    wide = torch.float32 if tensor.device.type == "mps" else torch.float64
    rest = tuple(range(1, tensor.ndim)) if num_dimensions > 1 else None
    keep = rest is not None
    norms: Tensor = torch.linalg.vector_norm(tensor, dim=rest, keepdim=keep, dtype=wide)
    return norms
