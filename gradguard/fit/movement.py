"""Which parameters have changed, by whatever hand."""

from collections.abc import Iterable
from weakref import ref

import torch
from torch import Tensor

from gradguard.gradients.norms import plain
from gradguard.gradients.sharding import local


class Movement:
    """Tell which parameters have changed, also by `parameter.data`, as torch does not count.

    Args:
        parameters: To be looked at now; nothing syncs until they are compared.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        # Weak: a parameter may be replaced by another one in mid-fit.
        self._norms = [(ref(parameter), _norm(parameter)) for parameter in parameters]

    def moved(self) -> set[Tensor]:
        """Return the parameters that are not what they were; syncs."""
        return {
            parameter
            for known, norm in self._norms
            if (parameter := known()) is not None
            and not torch.equal(norm, _norm(parameter))
            and not norm.isnan()
        }


@torch.no_grad()
def _norm(parameter: Tensor) -> Tensor:
    """Return ||w||_2 of what this process holds, in float64: small updates move it too."""
    weight = plain(local(parameter))
    dtype = torch.float32 if weight.device.type == "mps" else torch.float64
    norm: Tensor = torch.linalg.vector_norm(weight, dtype=dtype)
    return norm
