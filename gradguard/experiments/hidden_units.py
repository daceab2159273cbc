"""Hidden units that no longer learn: dead ones and saturated ones."""

from collections.abc import Callable
from typing import Literal, Protocol

import torch
from torch import Tensor

_EDGE = 0.01  # of the range of an activation, on either side


class HasUnits(Protocol):
    """A network that can show its hidden units.

    Attributes:
        activation: Which function its hidden units apply: relu, tanh or sigmoid.
    """

    @property
    def activation(self) -> Literal["relu", "tanh", "sigmoid"]: ...  # noqa: D102 (above)

    def activations(self, rows: Tensor, /) -> list[Tensor]:
        """Return the outputs of the units for N rows: `[N, ..., units]` for each layer."""
        ...


def stuck_units(model: HasUnits, rows: Tensor) -> dict[str, float]:
    """Return the share of hidden units through which hardly a gradient passes, 0 to 1.

    For relu that is `dead`: the share of units that give 0 for every row. For tanh and
    sigmoid it is `saturated`: the share of outputs, over all units and rows (and time
    steps), with |tanh| > 0.99, or within 0.01 of a sigmoid's 0 or 1. NaN where an
    activation is not finite: the network has diverged.

    Args:
        model: The network, in evaluation mode.
        rows: What to show it, `[N, ...]`, typically the training set.

    References:
        Xavier Glorot and Yoshua Bengio, "Understanding the difficulty of training deep
        feedforward neural networks", AISTATS 2010, for saturation.
    """
    with torch.no_grad():
        layers = model.activations(rows)
    name, stuck = _KINDS[model.activation]
    if not all(layer.isfinite().all() for layer in layers):
        return {name: float("nan")}
    return {name: float(torch.cat([stuck(layer).flatten() for layer in layers]).mean())}


def _dead(layer: Tensor) -> Tensor:
    return (layer.flatten(end_dim=-2) == 0).all(dim=0).double()


def _saturated_tanh(layer: Tensor) -> Tensor:
    return (layer.abs() > 1 - _EDGE).double()


def _saturated_sigmoid(layer: Tensor) -> Tensor:
    return ((layer < _EDGE) | (layer > 1 - _EDGE)).double()


_KINDS: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "relu": ("dead", _dead),
    "tanh": ("saturated", _saturated_tanh),
    "sigmoid": ("saturated", _saturated_sigmoid),
}
