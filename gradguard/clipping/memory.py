"""What a policy keeps of each parameter, found again by the parameter's name.

A row is the last dimension of a tensor, one number or column for each name ever seen, so
that neither another order of parameters nor one without a gradient mixes them up.
"""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from gradguard.clipping.policy import State
from gradguard.gradients.norms import Gradients

_NAMES = "names"


def names_of(gradients: Gradients) -> tuple[str, ...]:
    """Return the name of each gradient's parameter, or its place where it has none."""
    names = gradients.names or ("",) * len(gradients.tensors)
    return tuple(name or f"unnamed.{place}" for place, name in enumerate(names))


def recall(
    state: State, names: tuple[str, ...] | None, fresh: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Return the rows of these names, `[..., n]`; of None, what is kept of the total.

    Args:
        state: What has been kept; forgotten if it was of the total and is to be of each
            parameter, or the other way round.
        names: Of the parameters that have a gradient now.
        fresh: Makes what a name starts with.
    """
    if (_NAMES in state) is (names is None):
        state.clear()
    if names is None:
        return {key: state[key] for key in fresh()} if state else fresh()
    known: tuple[str, ...] = state.get(_NAMES, ())
    if names == known:
        return {key: value for key, value in state.items() if key != _NAMES}
    seen = set(known)
    new = tuple(name for name in names if name not in seen)
    if new:
        for key, value in fresh().items():
            rows = value.unsqueeze(-1).expand(*value.shape, len(new))
            state[key] = torch.cat([state[key], rows], -1) if known else rows.clone()
        state[_NAMES] = known = known + new
    kept = {key: value for key, value in state.items() if key != _NAMES}
    places = _places(known, names, next(iter(kept.values())).device)
    return {key: value.index_select(-1, places) for key, value in kept.items()}


def keep(state: State, names: tuple[str, ...] | None, rows: dict[str, Tensor]) -> None:
    """Put the rows of these names, or what is known of the total, back."""
    if names is None or names == state[_NAMES]:
        state.update(rows)
        return
    for key, value in rows.items():
        places = _places(state[_NAMES], names, value.device)
        state[key] = state[key].index_copy(-1, places, value)


def span(values: Tensor) -> dict[str, float | Tensor]:
    """Return the smallest and the largest of several thresholds; the only one as it is."""
    if not values.ndim:
        return {"": values}
    return {"smallest": values.min(), "largest": values.max()}


@lru_cache(maxsize=64)  # making an index on an accelerator syncs
def _places(
    known: tuple[str, ...], names: tuple[str, ...], device: torch.device
) -> Tensor:
    places = {name: place for place, name in enumerate(known)}
    return torch.tensor([places[name] for name in names], device=device)
