"""Policies that learn their threshold from the norms they see, on the gradients' device.

A step whose total is not finite, as every step is that a gradient scaler skips, is left
alone and nothing is learned from it. Both keep a fixed number of values and never sync.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gradguard.clipping.policy import State, require_positive, scale
from gradguard.gradients.norms import Gradients, total_norm


@dataclass(frozen=True)
class AutoClip:
    """g <- g * min(1, eta / ||g||), eta the p-th percentile of ||g|| so far, this one too.

    The paper takes all norms since the first step; here it is the last `history`, so
    that memory is bounded and old norms are forgotten.

    Args:
        percentile: `p`, above 0, up to 100, which never clips; the paper advises 10.
        history: Number of steps to remember, at least 1.

    Raises:
        ValueError: If `percentile` or `history` is out of its range.

    References:
        Seetharaman, Wichern, Pardo, Le Roux. AutoClip: Adaptive gradient clipping for
        source separation networks. https://arxiv.org/abs/2007.14469, 2020.
    """

    percentile: float = 10.0
    history: int = 1000

    def __post_init__(self) -> None:
        if not 0 < self.percentile <= 100:  # noqa: PLR2004 (percent)
            raise ValueError(
                f"percentile must be above 0 and at most 100, got {self.percentile!r}"
            )
        if self.history < 1:
            raise ValueError(f"history must be at least 1, got {self.history!r}")

    def thresholds(self, state: State) -> dict[str, float | Tensor]:
        """Return the percentile, once there is one; see `HasThresholds`."""
        return {"": state["threshold"]} if state else {}

    def clip(self, gradients: Gradients, norms: Tensor, state: State) -> Tensor:
        """Scale the gradients down to the percentile; see `Policy.clip`."""
        total = total_norm(norms)
        totals = state.get("totals")
        if totals is None or len(totals) != self.history:
            totals = _exact(total).new_full((self.history,), torch.nan)
            state["seen"] = torch.zeros((), dtype=torch.long, device=total.device)
        seen = state["seen"]
        place = (seen % self.history).reshape(1)
        learns = total.isfinite()
        newest = torch.where(learns, _exact(total), totals[place])
        state["totals"] = totals = totals.index_copy(0, place, newest)
        state["seen"] = seen + learns
        eta = torch.nanquantile(totals, self.percentile / 100)
        state["threshold"] = eta
        return _scale_to(eta, gradients, norms, total)


@dataclass(frozen=True)
class ZClip:
    """g <- g * min(1, (mean + z_thresh^2 / z * std) / ||g||) where z > z_thresh.

    z = (||g|| - mean) / std. Mean and std are of the first `warmup` steps, on which
    nothing clips, then exponential moving averages of what the clip lets through. A norm
    that lies further out is cut back further: one at z_thresh stays as it is, one far
    beyond ends at the mean.

    Args:
        z_thresh: Standard deviations above the mean from which to clip; positive.
        alpha: Share of the averages kept at each step, between 0 and 1.
        warmup: Steps to learn from before the first clip, at least 2.

    Raises:
        ValueError: If an argument is out of its range.

    References:
        Kumar, Owen, Chowdhury, Guera. ZClip: Adaptive spike mitigation for LLM
        pre-training. https://arxiv.org/abs/2504.02507, 2025.
    """

    z_thresh: float = 2.5
    alpha: float = 0.97
    warmup: int = 25

    def __post_init__(self) -> None:
        require_positive("z_thresh", self.z_thresh)
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha must be between 0 and 1, got {self.alpha!r}")
        if self.warmup < 2:  # noqa: PLR2004 (one norm has no spread)
            raise ValueError(f"warmup must be at least 2, got {self.warmup!r}")

    def thresholds(self, state: State) -> dict[str, float | Tensor]:
        """Return the largest total let through, once there is one; see `HasThresholds`."""
        return {"": state["threshold"]} if state else {}

    def clip(self, gradients: Gradients, norms: Tensor, state: State) -> Tensor:
        """Scale the gradients down where their total is an outlier; see `Policy.clip`."""
        total = total_norm(norms)
        if not state:
            zero = torch.zeros_like(_exact(total))
            state.update(mean=zero, variance=zero, seen=zero)
        warm = state["seen"] >= self.warmup
        above = _exact(total) - state["mean"]
        largest = self.z_thresh * state["variance"].sqrt()
        # z_thresh^2 / z * std, without the division by a std that may be zero.
        clipped = state["mean"] + largest.square() / above
        outlying = warm & (above > largest) & total.isfinite()
        state["threshold"] = torch.where(warm, state["mean"] + largest, torch.inf)
        self._learn(state, torch.where(outlying, clipped, _exact(total)), warm)
        bound = torch.where(outlying, clipped, torch.inf)
        return _scale_to(bound, gradients, norms, total)

    def _learn(self, state: State, total: Tensor, warm: Tensor) -> None:
        """Average what the clip lets through; all alike until warm, then exponentially."""
        mean, variance, seen = state["mean"], state["variance"], state["seen"]
        share = torch.where(warm, 1 - self.alpha, 1 / (seen + 1))
        next_mean = mean + share * (total - mean)
        # Of the first norms Welford's; from then on the paper's.
        spread = (total - next_mean) * torch.where(
            warm, total - next_mean, total - mean
        )
        next_variance = variance + share * (spread - variance)
        learns = total.isfinite() & next_variance.isfinite()
        state["mean"] = torch.where(learns, next_mean, mean)
        state["variance"] = torch.where(learns, next_variance, variance)
        state["seen"] = seen + learns


def _scale_to(
    bound: Tensor, gradients: Gradients, norms: Tensor, total: Tensor
) -> Tensor:
    """Scale so that the total is at most the bound; leave alone what is not finite."""
    exceeds = (total > bound) & total.isfinite()
    coefficient = torch.where(exceeds, bound / _exact(total), 1.0)
    return scale(gradients, norms, coefficient.to(norms.dtype))


def _exact(total: Tensor) -> Tensor:
    """Return a norm in float64, whose square cannot overflow, where there is any."""
    return total if total.device.type == "mps" else total.double()
