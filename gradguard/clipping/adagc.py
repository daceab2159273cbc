"""Clip each parameter's gradient by the average of what was let through of it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gradguard.clipping.memory import keep, names_of, recall, span
from gradguard.clipping.policy import State, keep_plain, require_positive, scale
from gradguard.gradients.norms import Gradients, total_norm

# Of lambda_abs, the least that is let through of a parameter: a warm-up that saw next to
# nothing of it would take, at 0.1 % a step, tens of thousands of steps to open again.
_SHARE = 1e-4


@dataclass(frozen=True)
class AdaGC:
    """g_i <- g_i * min(1, lambda_rel * gamma_i / ||g_i||) for each parameter i.

    gamma_i is the exponential moving average of ||g_i|| after the clip. On the first
    `warmup` gradients of a parameter, g_i <- g_i * min(1, lambda_abs / ||g||) with the norm
    over all gradients, and gamma_i is the smallest ||g_i|| after that. So gamma grows by
    at most a factor of beta + (1 - beta) * lambda_rel at each step, 1.001 by default.

    Unlike in the paper, a gradient of exactly 0 and a step that is not finite teach
    nothing, and 1e-4 of `lambda_abs` is always let through: gamma cannot be trapped.

    Args:
        lambda_rel: Largest norm relative to gamma; above 1, so that gamma can grow.
        lambda_abs: Largest total during the warm-up; positive.
        beta: Share of the average kept at each step, between 0 and 1.
        warmup: Gradients of a parameter to learn from, at least 1.

    Raises:
        ValueError: If an argument is out of its range.

    References:
        Wang, Li, Chen, Zeng, Yang, Yu, Ma, Shen. AdaGC: Enhancing LLM pretraining
        stability via adaptive gradient clipping. https://arxiv.org/abs/2502.11034, 2025.
    """

    lambda_rel: float = 1.05
    lambda_abs: float = 1.0
    beta: float = 0.98
    warmup: int = 100

    def __post_init__(self) -> None:
        keep_plain(self)
        require_positive("lambda_rel", self.lambda_rel)
        require_positive("lambda_abs", self.lambda_abs)
        if self.lambda_rel <= 1:
            raise ValueError(f"lambda_rel must be above 1, got {self.lambda_rel!r}")
        if not 0 < self.beta < 1:
            raise ValueError(f"beta must be between 0 and 1, got {self.beta!r}")
        if self.warmup < 1:
            raise ValueError(f"warmup must be at least 1, got {self.warmup!r}")

    def thresholds(self, state: State) -> dict[str, float | Tensor]:
        """Return the smallest and the largest threshold; see `HasThresholds`."""
        return span(state["threshold"]) if state else {}

    def clip(self, gradients: Gradients, norms: Tensor, state: State) -> Tensor:
        """Scale each parameter's gradient down to its bound; see `Policy.clip`."""
        size = norms if norms.device.type == "mps" else norms.double()
        total = total_norm(size)
        names = names_of(gradients)
        kept = recall(state, names, lambda: _unknown(size))
        gamma, seen = kept["gamma"], kept["seen"]
        warm = seen >= self.warmup
        bound = (self.lambda_rel * gamma).clamp(min=_SHARE * self.lambda_abs)
        learns = total.isfinite() & (size > 0)
        share = torch.where(warm, bound / size, self.lambda_abs / total).clamp(max=1.0)
        coefficient = torch.where(learns, share, 1.0)
        after = coefficient * size
        averaged = self.beta * gamma + (1 - self.beta) * after
        learned = torch.where(warm, averaged, torch.minimum(gamma, after))
        rows = {
            "gamma": torch.where(learns, learned, gamma),
            "seen": seen + learns,
            "threshold": torch.where(warm, bound, self.lambda_abs),
        }
        keep(state, names, rows)
        return scale(gradients, norms, coefficient.to(norms.dtype))


def _unknown(size: Tensor) -> dict[str, Tensor]:
    """Return what is kept of a parameter that has had no gradient yet."""
    return {
        "gamma": size.new_full((), torch.inf),
        "seen": size.new_zeros(()),
        "threshold": size.new_full((), torch.inf),
    }
