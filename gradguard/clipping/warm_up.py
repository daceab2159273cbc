"""Clip by a norm that is another at the start of training."""

from dataclasses import dataclass

from torch import Tensor

from gradguard.clipping.fixed import ClipNorm
from gradguard.clipping.policy import State, keep_plain, require_positive
from gradguard.gradients.norms import Gradients


@dataclass(frozen=True)
class ClipNormWarmUp:
    """g <- g * min(1, c_t / (||g|| + 1e-6)), c_t from factor * max_norm to max_norm.

    c_t = max_norm * (factor + (1 - factor) * min(t / steps, 1)), a straight line over the
    first `steps` updates, t = 0, 1, ...; from then on it is `ClipNorm`, to the bit. With
    a factor above 1 the clip tightens, below 1 it opens.

    Args:
        max_norm: Largest L2 norm let through after the warm-up; positive, finite.
        factor: What `max_norm` is multiplied by at the first update; positive, finite.
        steps: Updates until then, at least 1; a resumed run goes on counting.
        per_parameter: Take the norm of each parameter's gradient by itself.

    Raises:
        ValueError: If an argument is out of its range.
    """

    max_norm: float
    factor: float = 10.0
    steps: int = 1000
    per_parameter: bool = False

    def __post_init__(self) -> None:
        keep_plain(self)
        require_positive("max_norm", self.max_norm)
        require_positive("factor", self.factor)
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps!r}")

    def thresholds(self, state: State) -> dict[str, float | Tensor]:
        """Return c_t of the last update; see `HasThresholds`."""
        return {"": self._threshold(max(0, state.get("updates", 0) - 1))}

    def clip(self, gradients: Gradients, norms: Tensor, state: State) -> Tensor:
        """Scale the gradients down to c_t; see `Policy.clip`."""
        update = state.get("updates", 0)
        state["updates"] = update + 1
        policy = ClipNorm(self._threshold(update), per_parameter=self.per_parameter)
        return policy.clip(gradients, norms, {})

    def _threshold(self, update: int) -> float:
        share = min(update / self.steps, 1.0)
        return self.max_norm * (self.factor + (1 - self.factor) * share)
