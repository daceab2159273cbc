"""Policies applied to gradients whose norms nobody has taken yet, and all there are."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gradguard.clipping.policy import Policy, State, apply_to
from gradguard.clipping.spec import POLICIES, make
from gradguard.gradients.norms import Gradients


@torch.no_grad()
def apply(
    policies: Sequence[Policy], gradients: Gradients, state: State
) -> tuple[Tensor, Tensor]:
    """Clip in place; return the norms before and after, `[n]` each."""
    before = gradients.norms()
    return before, apply_to(before, policies, gradients, state)


def of_the_table() -> list[Policy]:
    """Every policy by its kind, and once more for each yes-or-no option."""
    made = []
    for kind, row in POLICIES.items():
        number = 1.0 if row.default is None else row.default
        flags = [name for name, value in row.options.items() if value is False]
        made += [make(kind, number), *(make(kind, number, **{f: True}) for f in flags)]
    return made
