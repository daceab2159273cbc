"""The bundled models: parameters, initial values, steps, and a plain Trainer."""

import math
import pickle
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gradguard.data.batches import Batches
from gradguard.data.circles import CirclesData
from gradguard.data.digit_sum import DigitSumData
from gradguard.data.regression import RegressionData
from gradguard.models.deep_mlp import DeepMLP, HiddenLayer, Init
from gradguard.models.mlp import MLP
from gradguard.models.optimizers import OptimizerName, optimizer_maker
from gradguard.models.srn import SRN, Cell, SimpleRecurrence
from tests.support.trainers import QUIET

MODELS = [MLP, DeepMLP, SRN]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


def fills(weight: Tensor, bound: float) -> bool:
    """Whether the entries look uniform on [-bound, bound]."""
    return bool(0.8 * bound < weight.abs().max() <= bound)


def test_mlp_has_readable_parameters_in_order() -> None:
    assert list(shapes(MLP(width=7)).items()) == [
        ("hidden.weight", (7, 20)),
        ("hidden.bias", (7,)),
        ("output.weight", (1, 7)),
        ("output.bias", (1,)),
    ]


def test_deep_mlp_has_readable_parameters_in_order() -> None:
    assert list(shapes(DeepMLP(depth=2, width=5)).items()) == [
        ("hidden.0.weight", (5, 2)),
        ("hidden.0.bias", (5,)),
        ("hidden.1.weight", (5, 5)),
        ("hidden.1.bias", (5,)),
        ("output.weight", (1, 5)),
        ("output.bias", (1,)),
    ]


def test_deep_mlp_with_batch_norm_has_no_bias_the_norm_would_cancel() -> None:
    assert list(shapes(DeepMLP(depth=1, batch_norm=True))) == [
        "hidden.0.weight",
        "hidden.0.norm.weight",
        "hidden.0.norm.bias",
        "output.weight",
        "output.bias",
    ]


def test_srn_has_readable_parameters_in_order() -> None:
    assert list(shapes(SRN()).items()) == [
        ("embedding.weight", (10, 32)),
        ("cell.W", (32, 32)),
        ("cell.U", (32, 32)),
        ("cell.b", (1, 32)),
        ("output.weight", (19, 32)),
        ("output.bias", (19,)),
    ]


def test_mlp_starts_he_then_glorot_with_zero_biases() -> None:
    model = MLP()

    assert fills(model.hidden.weight, math.sqrt(6 / 20))
    assert fills(model.output.weight, math.sqrt(6 / (25 + 1)))
    assert not model.hidden.bias.any()
    assert not model.output.bias.any()


def test_srn_starts_glorot_even_its_recurrent_bias() -> None:
    model = SRN()

    assert fills(model.embedding.weight, math.sqrt(6 / (10 + 32)))
    for name, bound in {
        "W": 6 / (32 + 32),
        "U": 6 / (32 + 32),
        "b": 6 / (1 + 32),
    }.items():
        assert fills(model.cell.get_parameter(name), math.sqrt(bound))
    assert fills(model.output.weight, math.sqrt(6 / (32 + 19)))
    assert not model.output.bias.any()


@pytest.mark.parametrize(
    ("init", "deviation"),
    [
        ("normal", 1.0),
        ("glorot", math.sqrt(2 / (200 + 200))),
        ("he", math.sqrt(2 / 200)),
        ("torch", math.sqrt(1 / (3 * 200))),
    ],
)
def test_deep_mlp_init_has_the_named_deviation(init: Init, deviation: float) -> None:
    weight = DeepMLP(depth=2, width=200, init=init).hidden[1].weight

    assert isinstance(weight, Tensor)
    assert math.isclose(weight.detach().std(), deviation, rel_tol=0.02)


@pytest.mark.parametrize("init", ["normal", "glorot", "he"])
def test_deep_mlp_starts_with_zero_biases(init: Init) -> None:
    parameters = DeepMLP(init=init).named_parameters()

    assert not any(p.any() for name, p in parameters if name.endswith("bias"))


@pytest.mark.parametrize(
    ("weight", "output", "gradient"),
    [(0.8, 0.8**50, 0.8**49), (1.2, 1.2**50, 1.2**49)],
    ids=["vanishes", "explodes"],
)
def test_width_1_chain_multiplies_its_weights(
    weight: float, output: float, gradient: float
) -> None:
    # A relu is the identity on the positive numbers of this chain.
    model = DeepMLP(depth=49, width=1, activation="relu")
    for name, parameter in model.named_parameters():
        nn.init.constant_(parameter, 0.0 if name.endswith("bias") else weight)

    y = model(torch.tensor([[1.0, 0.0]]))
    y.sum().backward()

    first = model.get_parameter("hidden.0.weight").grad
    assert first is not None
    assert math.isclose(y.item(), output, rel_tol=1e-5)
    assert math.isclose(first[0, 0].item(), gradient, rel_tol=1e-5)


@pytest.mark.parametrize(
    ("in_features", "expected"), [(3, 2.0), (4, 0.0)], ids=["same width", "other width"]
)
def test_shortcut_adds_the_input_where_widths_agree(
    in_features: int, expected: float
) -> None:
    layer = HiddenLayer(
        in_features,
        out_features=3,
        activation=torch.tanh,
        batch_norm=False,
        shortcut=True,
    )
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)

    h = layer(torch.full((1, in_features), 2.0))

    assert h.tolist() == [[expected] * 3]


def test_deep_mlp_refuses_no_hidden_layer() -> None:
    with pytest.raises(ValueError, match=r"^depth must be at least 1, got 0$"):
        DeepMLP(depth=0)


def test_simple_recurrence_agrees_with_torch() -> None:
    ours = SimpleRecurrence(4, 3).double()
    torchs = nn.RNN(4, 3, batch_first=True).double()
    torchs.load_state_dict(
        {
            "weight_ih_l0": ours.W.T,
            "weight_hh_l0": ours.U.T,
            "bias_ih_l0": ours.b[0],
            "bias_hh_l0": torch.zeros(3),
        }
    )
    x = torch.randn(2, 6, 4, dtype=torch.float64)

    states, last = ours(x)
    expected, expected_last = torchs(x)
    last.sum().backward()
    expected_last.sum().backward()

    torch.testing.assert_close(states, expected)
    assert last.equal(states[:, -1])
    assert ours.U.grad is not None
    torch.testing.assert_close(ours.U.grad.T, torchs.weight_hh_l0.grad)


@pytest.mark.parametrize("cell", get_args(Cell))
def test_srn_classifies_the_last_hidden_state(cell: Cell) -> None:
    model = SRN(cell=cell)
    digits = torch.randint(10, (4, 6))

    states = model.hidden_states(digits)

    assert states.shape == (4, 6, 32)
    torch.testing.assert_close(model(digits), model.output(states[:, -1]))


@pytest.mark.parametrize(("reduction", "factor"), [("sum", 4), ("mean", 1)])
def test_srn_reduces_its_training_loss_as_asked(
    reduction: Literal["sum", "mean"], factor: int
) -> None:
    model = SRN(reduction=reduction)
    digits, sums = torch.randint(10, (4, 6)), torch.randint(19, (4,))
    expected = factor * cross_entropy(model(digits), sums).detach()
    trainer = Trainer(
        accelerator="cpu",
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        limit_val_batches=0,
    )

    trainer.fit(model, Batches(digits, sums), Batches(digits, sums))

    torch.testing.assert_close(trainer.callback_metrics["train_loss"], expected)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", get_args(OptimizerName))
def test_models_optimize_all_parameters_with_the_named_optimizer(
    model: type[MLP | DeepMLP | SRN], name: OptimizerName
) -> None:
    module = model(optimizer=name, lr=0.5, weight_decay=0.25)

    optimizer = module.configure_optimizers()

    (group,) = optimizer.param_groups
    assert type(optimizer).__name__.lower() == name
    assert (group["lr"], group["weight_decay"]) == (0.5, 0.25)
    assert [id(p) for p in group["params"]] == [id(p) for p in module.parameters()]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sgd", {"momentum": 0.5}),
        ("adam", {"betas": (0.9, 0.999)}),
        ("adamw", {"betas": (0.9, 0.999)}),
        ("rmsprop", {"alpha": 0.9, "eps": 1e-7, "momentum": 0}),
    ],
)
def test_only_sgd_takes_the_momentum(
    name: OptimizerName, expected: dict[str, object]
) -> None:
    make = optimizer_maker(name, lr=0.1, momentum=0.5, weight_decay=0.0)

    (group,) = make([nn.Parameter(torch.zeros(1))]).param_groups

    assert {key: group[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("model", "data", "fit_metrics", "test_metrics"),
    [
        (MLP, RegressionData, {"val_loss"}, {"test_loss", "test_mse"}),
        (DeepMLP, CirclesData, set(), {"test_loss", "test_accuracy"}),
        (
            SRN,
            DigitSumData,
            {"val_loss", "val_accuracy"},
            {"test_loss", "test_accuracy"},
        ),
    ],
)
def test_model_trains_with_a_plain_trainer(
    model: type[MLP | DeepMLP | SRN],
    data: type[RegressionData | CirclesData | DigitSumData],
    fit_metrics: set[str],
    test_metrics: set[str],
    tmp_path: Path,
) -> None:
    module, datamodule = model(lr=1e-4), data()
    before = module.output.weight.detach().clone()
    trainer = Trainer(
        accelerator="cpu", max_epochs=2, log_every_n_steps=1, default_root_dir=tmp_path
    )

    trainer.fit(module, datamodule)

    assert trainer.callback_metrics.keys() == {"train_loss"} | fit_metrics
    (metrics,) = trainer.test(module, datamodule, verbose=False)
    assert metrics.keys() == test_metrics
    assert not module.output.weight.equal(before)


def evaluate(model: LightningModule, *batch: Tensor) -> dict[str, float]:
    trainer = Trainer(**QUIET, logger=False)
    (metrics,) = trainer.test(model, Batches(*batch), verbose=False)
    return dict(metrics)


def test_mlp_tests_the_mean_squared_error() -> None:
    model = MLP()
    x, y = torch.randn(6, 20), torch.randn(6)
    expected = np.mean((model(x).detach().numpy() - y.numpy()) ** 2)

    assert evaluate(model, x, y) == pytest.approx(
        {"test_loss": expected, "test_mse": expected}
    )


def test_deep_mlp_takes_a_small_positive_logit_for_class_1() -> None:
    model = DeepMLP()
    nn.init.zeros_(model.output.weight)
    nn.init.constant_(model.output.bias, 0.3)

    metrics = evaluate(model, torch.randn(4, 2), torch.tensor([1.0, 1.0, 1.0, 0.0]))

    p = 1 / (1 + math.exp(-0.3))
    log_loss = -(3 * math.log(p) + math.log(1 - p)) / 4
    assert metrics == pytest.approx({"test_loss": log_loss, "test_accuracy": 3 / 4})


def test_srn_tests_the_mean_loss_and_the_share_of_correct_sums() -> None:
    model = SRN()
    nn.init.zeros_(model.output.weight)
    model.output.bias.data = torch.eye(19)[3]

    metrics = evaluate(model, torch.randint(10, (5, 6)), torch.tensor([3, 3, 3, 3, 0]))

    log_total = math.log(math.e + 18)
    mean_loss = (4 * (log_total - 1) + log_total) / 5
    assert metrics == pytest.approx({"test_loss": mean_loss, "test_accuracy": 4 / 5})


def test_checkpoint_restores_the_options(tmp_path: Path) -> None:
    trainer = Trainer(
        accelerator="cpu", max_steps=1, logger=False, default_root_dir=tmp_path
    )
    trainer.fit(MLP(width=7), RegressionData())
    trainer.save_checkpoint(tmp_path / "last.ckpt")

    assert MLP.load_from_checkpoint(tmp_path / "last.ckpt").hidden.out_features == 7


@pytest.mark.parametrize("model", MODELS)
def test_models_can_be_sent_to_another_process(
    model: type[MLP | DeepMLP | SRN],
) -> None:
    assert shapes(pickle.loads(pickle.dumps(model()))) == shapes(model())
