"""Policies applied to gradients whose norms nobody has taken yet."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gradguard.clipping.policy import Policy, State, apply_to
from gradguard.gradients.norms import Gradients


@torch.no_grad()
def apply(
    policies: Sequence[Policy], gradients: Gradients, state: State
) -> tuple[Tensor, Tensor]:
    """Clip in place; return the norms before and after, `[n]` each."""
    before = gradients.norms()
    return before, apply_to(before, policies, gradients, state)
