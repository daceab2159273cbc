"""Policies that learn their threshold from the norms they see, on the gradients' device.

A step whose total is not finite, as every step is that a gradient scaler skips, is left
alone and nothing is learned from it, nor from a gradient of exactly 0, such as a hinge loss
has on most steps. Both keep a fixed number of values and never sync.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gradguard.clipping.memory import keep, names_of, recall, span
from gradguard.clipping.policy import State, keep_plain, require_positive, scale
from gradguard.gradients.norms import Gradients, total_norm

# AutoClip's threshold is at least a hundredth of the 90th percentile: of ten steps nine
# keep a hundredth of their gradient or more, however many small norms it remembers.
_MOST = 0.9
_SHARE_OF_MOST = 0.01

# ZClip's bound is at least a tenth of the geometric mean of the norms as they came: after
# some 20 steps in a row a spike is a level. Without it, norms that were tiny for a while
# would teach a mean that no later norm can raise, since only what is let through teaches.
_SHARE_OF_LEVEL = 0.1
_LARGEST_JUMP = math.log(100.0)  # of one norm above the level, lest two spikes are one


@dataclass(frozen=True)
class AutoClip:
    """g <- g * min(1, eta / ||g||), eta the p-th percentile of ||g|| so far, this one too.

    The paper takes all norms since the first step; here it is the last `history`, so
    that memory is bounded and old norms are forgotten. And eta is never below a
    hundredth of the 90th percentile, so that small norms in between, or a late start,
    do not shut training.

    Args:
        percentile: `p`, above 0, up to 100, which never clips; the paper advises 10.
        history: Number of steps to remember, at least 1.
        per_parameter: Take percentile and norm of each parameter's gradient by itself;
            `history` numbers are kept for each.

    Raises:
        ValueError: If `percentile` or `history` is out of its range.

    References:
        Seetharaman, Wichern, Pardo, Le Roux. AutoClip: Adaptive gradient clipping for
        source separation networks. https://arxiv.org/abs/2007.14469, 2020.
    """

    percentile: float = 10.0
    history: int = 1000
    per_parameter: bool = False

    def __post_init__(self) -> None:
        keep_plain(self)
        if not 0 < self.percentile <= 100:  # noqa: PLR2004 (percent)
            raise ValueError(
                f"percentile must be above 0 and at most 100, got {self.percentile!r}"
            )
        if self.history < 1:
            raise ValueError(f"history must be at least 1, got {self.history!r}")

    def thresholds(self, state: State) -> dict[str, float | Tensor]:
        """Return the percentile, once there is one; see `HasThresholds`."""
        return span(state["threshold"]) if state else {}

    def clip(self, gradients: Gradients, norms: Tensor, state: State) -> Tensor:
        """Scale the gradients down to the percentile; see `Policy.clip`."""
        total = total_norm(norms)
        size = _exact(norms if self.per_parameter else total)
        if state and len(state["totals"]) != self.history:
            state.clear()
        names = names_of(gradients) if self.per_parameter else None
        kept = recall(state, names, lambda: self._fresh(size))
        learns = total.isfinite() & (size > 0)
        place = (kept["seen"] % self.history).unsqueeze(0)
        oldest = kept["totals"].gather(0, place)
        newest = torch.where(learns, size, oldest.squeeze(0)).unsqueeze(0)
        totals = kept["totals"].scatter(0, place, newest)
        seen = kept["seen"] + learns
        eta = self._threshold(totals, seen.clamp(max=self.history))
        keep(state, names, {"totals": totals, "seen": seen, "threshold": eta})
        return _scale_to(eta, gradients, norms, size, total)

    def _threshold(self, totals: Tensor, count: Tensor) -> Tensor:
        ordered = totals.sort(dim=0).values  # NaN, for "not yet", comes last
        floor = _SHARE_OF_MOST * _quantile(ordered, count, _MOST)
        eta = _quantile(ordered, count, self.percentile / 100).maximum(floor)
        return torch.where(count > 0, eta, torch.inf)

    def _fresh(self, size: Tensor) -> dict[str, Tensor]:
        return {
            "totals": size.new_full((self.history,), torch.nan),
            "seen": torch.zeros((), dtype=torch.long, device=size.device),
            "threshold": size.new_full((), torch.inf),
        }


@dataclass(frozen=True)
class ZClip:
    """g <- g * min(1, (mean + z_thresh^2 / z * std) / ||g||) where z > z_thresh.

    z = (||g|| - mean) / std. Mean and std are of the first `warmup` steps, on which
    nothing clips, then exponential moving averages of what the clip lets through. A norm
    that lies further out is cut back further: one at z_thresh stays as it is, one far
    beyond ends at the mean, but never below a tenth of the geometric mean of the norms as
    they come. One that would be is learned as it came: what lasts is no spike.

    Args:
        z_thresh: Standard deviations above the mean from which to clip; positive.
        alpha: Share of the averages kept at each step, between 0 and 1.
        warmup: Steps to learn from before the first clip, at least 2.
        per_parameter: Take norm, mean and std of each parameter's gradient by itself.

    Raises:
        ValueError: If an argument is out of its range.

    References:
        Kumar, Owen, Chowdhury, Guera. ZClip: Adaptive spike mitigation for LLM
        pre-training. https://arxiv.org/abs/2504.02507, 2025.
    """

    z_thresh: float = 2.5
    alpha: float = 0.97
    warmup: int = 25
    per_parameter: bool = False

    def __post_init__(self) -> None:
        keep_plain(self)
        require_positive("z_thresh", self.z_thresh)
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha must be between 0 and 1, got {self.alpha!r}")
        if self.warmup < 2:  # noqa: PLR2004 (one norm has no spread)
            raise ValueError(f"warmup must be at least 2, got {self.warmup!r}")

    def thresholds(self, state: State) -> dict[str, float | Tensor]:
        """Return the largest norm let through; see `HasThresholds`."""
        return span(state["threshold"]) if state else {}

    def clip(self, gradients: Gradients, norms: Tensor, state: State) -> Tensor:
        """Scale the gradients down where their norm is an outlier; see `Policy.clip`."""
        total = total_norm(norms)
        size = _exact(norms if self.per_parameter else total)
        names = names_of(gradients) if self.per_parameter else None
        if "mean" in state and "level" not in state:  # as 0.1 kept it
            state["level"] = state["mean"].clamp(min=1e-30).log()
        kept = recall(state, names, lambda: _statistics(size))
        warm = kept["seen"] >= self.warmup
        above = size - kept["mean"]
        largest = self.z_thresh * kept["variance"].sqrt()
        # z_thresh^2 / z * std, without the division by a std that may be zero.
        clipped = kept["mean"] + largest.square() / above
        floor = _SHARE_OF_LEVEL * kept["level"].exp()
        outlying = warm & (above > largest) & total.isfinite()
        learned = torch.where(outlying & (clipped >= floor), clipped, size)
        learns = total.isfinite() & (size > 0)
        rows = self._learn(kept, size, learned, learns)
        threshold = (kept["mean"] + largest).maximum(floor)
        rows["threshold"] = torch.where(warm, threshold, torch.inf)
        keep(state, names, rows)
        bound = torch.where(outlying, clipped.maximum(floor), torch.inf)
        return _scale_to(bound, gradients, norms, size, total)

    def _learn(
        self, kept: dict[str, Tensor], size: Tensor, learned: Tensor, learns: Tensor
    ) -> dict[str, Tensor]:
        """Average what the clip lets through; all alike until warm, then exponentially."""
        mean, variance, seen = kept["mean"], kept["variance"], kept["seen"]
        warm = seen >= self.warmup
        share = torch.where(warm, 1 - self.alpha, 1 / (seen + 1))
        next_mean = mean + share * (learned - mean)
        # Of the first norms Welford's; from then on the paper's.
        other = torch.where(warm, next_mean, mean)
        spread = (learned - next_mean) * (learned - other)
        next_variance = variance + share * (spread - variance)
        jump = size.log() - kept["level"]
        jump = torch.where(warm, jump.clamp(max=_LARGEST_JUMP), jump)
        learns = learns & next_variance.isfinite()
        return {
            "mean": torch.where(learns, next_mean, mean),
            "variance": torch.where(learns, next_variance, variance),
            "level": torch.where(learns, kept["level"] + share * jump, kept["level"]),
            "seen": seen + learns,
        }


def _statistics(size: Tensor) -> dict[str, Tensor]:
    """Return what ZClip starts with; `level` is the mean of the norms' logarithms."""
    zero = size.new_zeros(())
    return {
        "mean": zero,
        "variance": zero,
        "level": zero,
        "seen": zero,
        "threshold": size.new_full((), torch.inf),
    }


def _quantile(ordered: Tensor, count: Tensor, share: float) -> Tensor:
    """Return a quantile of the first `count` of sorted values, interpolated linearly."""
    last = (count - 1).clamp(min=0)
    place = share * last.to(ordered.dtype)
    low = place.floor().long()
    high = torch.minimum(low + 1, last)
    below, above = (ordered.gather(0, at.unsqueeze(0)).squeeze(0) for at in (low, high))
    return below + (place - low) * (above - below)


def _scale_to(
    bound: Tensor, gradients: Gradients, norms: Tensor, size: Tensor, total: Tensor
) -> Tensor:
    """Scale norms to at most the bound, 0-d or `[n]`; leave a step alone that is not finite."""
    exceeds = (size > bound) & total.isfinite()
    coefficient = torch.where(exceeds, bound / size, 1.0)
    return scale(gradients, norms, coefficient.to(norms.dtype))


def _exact(norms: Tensor) -> Tensor:
    """Return norms in float64, whose square cannot overflow, where there is any."""
    return norms if norms.device.type == "mps" else norms.double()
