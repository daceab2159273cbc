"""Dead and saturated units, over networks whose weights say how many there are."""

import math
from typing import Literal, cast, get_args

import pytest
import torch
from torch import Tensor, nn

from gradguard.experiments.hidden_units import stuck_units
from gradguard.models.deep_mlp import DeepMLP, HiddenLayer
from gradguard.models.mlp import MLP
from gradguard.models.srn import SRN, Cell

ROWS = torch.linspace(-1, 1, 5 * 20).reshape(5, 20)
POINTS = torch.linspace(-1, 1, 7 * 2).reshape(7, 2)


def test_unit_is_dead_when_no_row_reaches_it() -> None:
    model = MLP(width=4)
    with torch.no_grad():
        model.hidden.weight.zero_()
        model.hidden.bias.copy_(torch.tensor([-1.0, -1.0, 1.0, -1.0]))

    assert stuck_units(model, ROWS) == {"dead": 3 / 4}


def test_unit_is_alive_when_a_single_row_reaches_it() -> None:
    model = MLP(width=2)
    with torch.no_grad():
        model.hidden.weight.zero_()
        model.hidden.weight[0, 0] = 1.0
        model.hidden.bias.copy_(torch.tensor([-ROWS[-1, 0] + 1e-3, -1.0]))

    assert (ROWS @ model.hidden.weight[0] + model.hidden.bias[0] > 0).sum() == 1
    assert stuck_units(model, ROWS) == {"dead": 1 / 2}


def silenced(model: DeepMLP) -> list[HiddenLayer]:
    """The hidden layers, once each gives activation(0)."""
    layers = cast(list[HiddenLayer], list(model.hidden))
    for layer in layers:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return layers


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
@pytest.mark.parametrize("shift", [-9.0, 9.0])
def test_output_at_either_end_of_its_range_is_saturated(
    activation: Literal["sigmoid", "tanh"], shift: float
) -> None:
    model = DeepMLP(depth=2, width=4, activation=activation)
    silenced(model)[1].bias.data[0] = shift

    assert stuck_units(model, POINTS) == {"saturated": 1 / 8}


def test_shortcut_does_not_hide_a_dead_unit() -> None:
    model = DeepMLP(depth=2, width=3, activation="relu", shortcut=True)
    first, second = silenced(model)
    nn.init.constant_(first.bias, 1.0)
    nn.init.constant_(second.bias, -1.0)

    assert stuck_units(model, POINTS) == {"dead": 3 / 6}


@pytest.mark.parametrize("cell", get_args(Cell))
def test_share_of_recurrent_states_is_counted_over_all_steps(cell: Cell) -> None:
    torch.manual_seed(0)
    model = SRN(cell=cell)
    digits = torch.arange(12).reshape(3, 4) % 10
    with torch.no_grad():
        for weight in model.cell.parameters():
            weight.mul_(30)

    states: Tensor = model.hidden_states(digits)
    saturated = sum(abs(h) > 0.99 for h in states.flatten().tolist())
    assert saturated > 0
    assert stuck_units(model, digits) == {"saturated": saturated / states.numel()}


def test_diverged_network_has_no_share() -> None:
    model = MLP(width=4)
    nn.init.constant_(model.hidden.weight, math.inf)

    assert math.isnan(stuck_units(model, ROWS)["dead"])
