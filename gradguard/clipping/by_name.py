"""Another policy for each part of a model, chosen by the names of its parameters."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from gradguard.clipping.policy import (
    Clip,
    State,
    apply_to,
    check,
    in_order,
    in_words,
    thresholds,
    unmatched,
    unwrapped,
)
from gradguard.gradients.norms import Gradients, pick


@dataclass(frozen=True, init=False, repr=False)
class ByName:
    """Clip the parameters that match a pattern by the pattern's policy.

    The first pattern that matches counts. Each policy sees only its own parameters and
    their norms: `ClipNorm` takes one norm over all that its pattern was given. What no
    pattern matches is left alone; a last pattern "*" takes the rest.

    Args:
        policies: Patterns as of `fnmatch`, for whole names as in `named_parameters()`,
            each with a policy or several in order, which may be `ByName` again.

    Raises:
        TypeError: If something in it is not a policy.
        ValueError: At the start of a fit, if a pattern is given no parameter.

    References:
        Graves. Generating sequences with recurrent neural networks.
        https://arxiv.org/abs/1308.0850, 2013: output gradients clipped to +-100,
        recurrent ones to +-10.

    Examples:
        >>> from gradguard import ByName, ClipValue
        >>> ByName({"head.*": ClipValue(100.0), "rnn.*": ClipValue(10.0)})
        ByName({'head.*': ClipValue(clip_value=100.0), 'rnn.*': ClipValue(clip_value=10.0)})
    """

    # As pairs of tuples; OmegaConf, which wraps dataclasses in a list, knows no such type.
    policies: Any

    def __init__(self, policies: Mapping[str, Clip]) -> None:
        # Pairs as well: `dataclasses.replace` and OmegaConf give back the attribute.
        patterns: dict[str, Clip] = dict(unwrapped(policies))
        inside = tuple((str(name), in_order(clip)) for name, clip in patterns.items())
        object.__setattr__(self, "policies", inside)

    def __repr__(self) -> str:
        inside = ", ".join(
            f"{pattern!r}: {in_words(policies)}"
            if len(policies) == 1
            else f"{pattern!r}: [{in_words(policies)}]"
            for pattern, policies in self.policies
        )
        return f"ByName({{{inside}}})"

    def clip(self, gradients: Gradients, norms: Tensor, state: State) -> Tensor:
        """Clip each pattern's parameters by its policies; see `Policy.clip`."""
        after = list(norms.unbind())
        shares = _shares(tuple(self._patterns), gradients.names)
        for (pattern, policies), positions in zip(self.policies, shares, strict=True):
            if not positions:  # theirs have no gradient, or are another optimizer's
                continue
            clipped = apply_to(
                pick(norms, positions),
                policies,
                gradients.subset(positions),
                state.setdefault(pattern, {}),
            )
            for position, norm in zip(positions, clipped.unbind(), strict=True):
                after[position] = norm
        # A policy that measures again may need float64 where the others do not.
        dtype = max((norm.dtype for norm in after), key=lambda dtype: dtype.itemsize)
        return torch.stack([norm.to(dtype) for norm in after])

    def thresholds(self, state: State) -> dict[str, float | Tensor]:
        """Return the thresholds of each pattern's policies; see `HasThresholds`."""
        several = len(self.policies) > 1
        return {
            "/".join(filter(None, (pattern * several, which))): value
            for pattern, policies in self.policies
            if pattern in state  # else its parameters are another optimizer's
            for which, value in thresholds(policies, state[pattern])
        }

    def check(self, names: Sequence[str]) -> None:
        """Do nothing if each pattern is given a parameter; see `HasPatterns`."""
        shares = _shares(tuple(self._patterns), tuple(names))
        for (pattern, policies), positions in zip(self.policies, shares, strict=True):
            if not positions:
                raise ValueError(unmatched(pattern, names))
            check(policies, [names[position] for position in positions])

    @property
    def _patterns(self) -> Iterable[str]:
        return (pattern for pattern, _ in self.policies)


@lru_cache(maxsize=64)
def _shares(
    patterns: tuple[str, ...], names: tuple[str, ...]
) -> tuple[tuple[int, ...], ...]:
    """Return the positions in `names` that each pattern is the first to match."""
    shares: dict[str, list[int]] = {pattern: [] for pattern in patterns}
    for position, name in enumerate(names):
        for pattern in patterns:
            if fnmatchcase(name, pattern):
                shares[pattern].append(position)
                break
    return tuple(map(tuple, shares.values()))
