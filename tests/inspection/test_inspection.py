"""`gradguard inspect`: what one backward pass through an untrained network shows."""

import io
import json
import math
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, seed_everything
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader

from gradguard.errors import ConfigError
from gradguard.experiments.build import build
from gradguard.experiments.resolve import resolve
from gradguard.inspection.layers import Inspection, Layer
from gradguard.inspection.module import inspect_module
from gradguard.inspection.passes import by_trainer
from gradguard.inspection.subjects import inspect_experiment
from gradguard.inspection.table import print_inspection
from gradguard.inspection.words import sentences, trend
from tests.support.command_line import Call

MODULES = """
import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import DataLoader


class Chain(LightningModule):
    def __init__(self, *, weight: float, depth: int = 50) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(1, 1, bias=False) for _ in range(depth)))
        for layer in self.layers:
            nn.init.constant_(layer.weight, weight)
        self.example_input_array = torch.ones(1, 1)

    def forward(self, x):
        return self.layers(x)


class Trained(Chain):
    def train_dataloader(self):
        return DataLoader(torch.full((1, 1), 3.0))

    def training_step(self, batch, batch_idx):
        self.log("loss", 0.0)
        return 2 * self(batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Unoptimized(Trained):
    configure_optimizers = LightningModule.configure_optimizers


class TwoOptimizers(Trained):
    def configure_optimizers(self):
        return [torch.optim.SGD(self.parameters(), lr=0.1) for _ in range(2)]


class Normed(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)
        self.example_input_array = torch.randn(4, 8)

    def forward(self, x):
        return self.norm(self.layer(x))


class Batchless(LightningModule):
    pass


class Forwardless(LightningModule):
    example_input_array = torch.ones(1)


class Lossless(Trained):
    def training_step(self, batch, batch_idx):
        return None


class Refusing(LightningModule):
    def __init__(self) -> None:
        raise RuntimeError("no such\\nthing")


def function():
    pass
"""

ROWS: Any = torch.ones(3, 2)  # a tensor is a dataset, of its rows


@pytest.fixture
def call(
    gradguard: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Call]:
    """Run `gradguard inspect ...` in this process, where the user's modules are."""
    (tmp_path / "chains.py").write_text(MODULES)
    (tmp_path / "faulty.py").write_text("import torch\ntorch.nothing\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield partial(gradguard, "inspect")
    sys.modules.pop("chains", None)


def inspected(*assignments: str, model: str, full_batch: bool = True) -> Inspection:
    experiment = resolve(config=model, assignments=assignments)
    return inspect_experiment(experiment, full_batch=full_batch)


def deep(seed: int, **options: object) -> Inspection:
    chosen = [f"model.{name}={value}" for name, value in options.items()]
    return inspected(*chosen, f"seed={seed}", model="deep_mlp")


@pytest.mark.parametrize("weight", [0.8, 1.2])
def test_chain_of_equal_weights_has_the_textbook_gradient(
    call: Call, weight: float
) -> None:
    code, out, _ = call(
        "--module", "chains:Chain", "--set", f"weight={weight}", "--json"
    )

    report = json.loads(out)
    assert code == 0
    assert abs(report["loss"]) == pytest.approx(weight**50, rel=1e-5)
    assert report["layers"][0]["norm_before"] == pytest.approx(weight**49, rel=1e-5)
    assert report["output_factor"] == pytest.approx(weight, rel=1e-6)
    # The gradient of a weight is the signal from above times the input from below.
    assert report["weight_factor"] == pytest.approx(1.0, rel=1e-6)
    assert report["loss_of"].endswith("for example_input_array")


def test_training_step_of_a_module_is_taken_where_it_has_batches(call: Call) -> None:
    code, out, _ = call(
        "--module",
        "chains:Trained",
        "--set",
        "weight=0.5",
        "--set",
        "depth=3",
        "--json",
    )

    report = json.loads(out)
    assert code == 0
    assert report["loss"] == pytest.approx(2 * 3 * 0.5**3)
    assert [layer["norm_before"] for layer in report["layers"]] == pytest.approx(
        3 * [2 * 3 * 0.5**2]
    )
    assert report["loss_of"] == "training_step on the first batch"


@pytest.mark.parametrize("seed", range(3))
def test_sigmoid_vanishes_as_measured_elsewhere(seed: int) -> None:
    inspection = deep(seed, depth=10, width=32, init="glorot")

    # Ten seeds of plain torch gave 3.3e-9 to 3.1e-7.
    assert 1e-9 < inspection.first_to_last < 1e-6
    assert 0.2 < inspection.factor("norm_before") < 0.3  # sigmoid' is 1/4 at most
    assert "vanishing towards the input" in " ".join(sentences(inspection))


@pytest.mark.parametrize("seed", range(2))
def test_tanh_of_standard_normal_weights_explodes_as_measured_elsewhere(
    seed: int,
) -> None:
    inspection = deep(seed, depth=30, width=32, activation="tanh")

    # Ten seeds of plain torch gave 1.1e6 to 8.9e6.
    assert 3e5 < inspection.first_to_last < 3e7
    assert "exploding towards the input" in " ".join(sentences(inspection))


def test_relu_explosion_shows_at_the_outputs_where_weights_hide_it() -> None:
    inspection = deep(0, depth=30, width=64, activation="relu")

    # Ten seeds of plain torch gave 5e20 to 3.8e21, with ratios of 0.18 to 0.62.
    assert 1e20 < inspection.layers[0].norm_before < 1e22
    assert 0.1 < inspection.first_to_last < 1
    assert inspection.factor("norm_before") == pytest.approx(1, abs=0.1)
    # The variance of a sum of 64 terms, half of them cut by relu.
    assert inspection.factor("signal_before") == pytest.approx(
        math.sqrt(64 / 2), abs=0.5
    )


def test_healthy_network_is_steady() -> None:
    inspection = deep(0, depth=30, width=32, activation="relu", init="he")

    assert "steady" in " ".join(sentences(inspection))
    assert "ing towards" not in " ".join(sentences(inspection))


def test_norms_are_those_of_autograd() -> None:
    experiment = resolve(config="mlp", assignments=["seed=3"])
    seed_everything(3, verbose=False)
    model, data, _ = build(experiment)
    data.setup("fit")
    x, y = data.train  # type: ignore[union-attr]  # of RegressionData
    nn.functional.mse_loss(model(x), y).backward()  # type: ignore[no-untyped-call]  # torch's

    inspection = inspect_experiment(experiment, full_batch=True)

    for layer in inspection.layers:
        weight = model.get_parameter(layer.name)
        assert weight.grad is not None
        assert layer.norm_before == pytest.approx(weight.grad.norm().item(), rel=1e-5)
        assert layer.mean_abs_before == pytest.approx(
            weight.grad.abs().mean().item(), rel=1e-5
        )
        assert layer.weight_sd == pytest.approx(np.std(weight.detach().numpy()))


def test_only_weights_of_one_kind_are_compared() -> None:
    inspection = deep(0, depth=4, width=6)

    names = [layer.name for layer in inspection.chain]
    assert names == ["hidden.1.weight", "hidden.2.weight", "hidden.3.weight"]
    norms = {layer.name: layer.norm_before for layer in inspection.layers}
    assert inspection.factors("norm_before") == {
        "hidden.1.weight": norms["hidden.1.weight"] / norms["hidden.2.weight"],
        "hidden.2.weight": norms["hidden.2.weight"] / norms["hidden.3.weight"],
    }
    assert inspection.factor("norm_before") == pytest.approx(
        math.sqrt(norms["hidden.1.weight"] / norms["hidden.3.weight"])
    )


def test_network_without_two_weights_of_one_kind_has_no_factor() -> None:
    inspection = inspected(model="mlp")

    assert inspection.chain == ()
    assert math.isnan(inspection.factor("norm_before"))
    assert "no factor per layer" in " ".join(sentences(inspection))


@pytest.mark.parametrize(
    ("first", "last", "expected"), [(0.0, 1.0, 0.0), (1.0, 0.0, math.inf)]
)
def test_factor_says_that_a_norm_is_zero(
    first: float, last: float, expected: float
) -> None:
    layers = tuple(
        Layer(f"hidden.{number}.weight", (2, 2), 1.0, norm, norm, norm)
        for number, norm in enumerate((first, last))
    )

    inspection = Inspection("x", 0.0, "", layers, (), ())

    assert inspection.factor("norm_before") == expected
    assert trend(expected) != "steady"


def test_first_pass_changes_no_weight() -> None:
    class Model(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 1)

        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            loss: Tensor = self.layer(batch).sum()
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=1.0)

    model = Model()
    weight = model.layer.weight.detach().clone()

    inspection = by_trainer(
        model, DataLoader(ROWS, batch_size=3), subject="x", rows="x"
    )

    assert inspection.layers[0].norm_before == pytest.approx(math.hypot(3, 3))
    assert torch.equal(model.layer.weight, weight)


def test_nonfinite_activations_are_told_apart_from_gradients() -> None:
    inspection = deep(0, depth=50, width=64, activation="relu")

    assert math.isinf(inspection.loss)
    assert inspection.nonfinite_outputs == ()
    overflown = deep(0, depth=60, width=64, activation="relu")
    assert overflown.nonfinite_outputs[0].startswith("hidden.5")
    assert "activations are non-finite" in " ".join(sentences(overflown))


@pytest.mark.parametrize(("cell", "blocks"), [("srn", 1), ("gru", 3), ("lstm", 4)])
def test_spectral_norm_of_recurrent_weights_is_that_of_each_gate(
    cell: str, blocks: int
) -> None:
    experiment = resolve(config="srn", assignments=[f"model.cell={cell}"])
    seed_everything(0, verbose=False)
    model, _, _ = build(experiment)
    [recurrent] = [
        weight.detach().numpy()
        for name, weight in model.named_parameters()
        if name in {"cell.U", "cell.weight_hh_l0"}
    ]

    inspection = inspect_experiment(experiment, full_batch=False)

    assert [one.spectral_norm for one in inspection.recurrences] == pytest.approx(
        [np.linalg.svd(block)[1].max() for block in np.split(recurrent, blocks)],
        rel=1e-5,
    )


@pytest.mark.parametrize("model", ["mlp", "deep_mlp", "srn"])
def test_table_fits_80_columns(model: str) -> None:
    console = Console(file=io.StringIO(), width=80)
    inspection = inspected(model=model)

    print_inspection(inspection, console)

    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert all(layer.name in text for layer in inspection.layers)


def test_picture_is_written(call: Call, tmp_path: Path) -> None:
    code, out, err = call("--model", "deep_mlp", "--figure", "layers.svg")

    assert code == 0
    assert "hidden.1.weight" in out
    assert err == "wrote layers.svg\n"
    assert "hidden.1.weight" in (tmp_path / "layers.svg").read_text()


def test_network_without_a_finite_gradient_is_told_and_drawn(call: Call) -> None:
    arguments: list[str] = ["--model", "deep_mlp", "--full-batch"]
    for setting in ("depth=60", "width=64", "activation=relu"):
        arguments += ["--set", f"model.{setting}"]

    code, out, _ = call(*arguments, "--figure", "layers.png")

    assert code == 0
    assert "weight gradients are zero or non-finite: no factor" in out


def test_layer_norm_at_the_end_does_not_cancel_the_gradient(call: Call) -> None:
    code, out, _ = call("--module", "chains:Normed", "--json")

    assert code == 0
    assert json.loads(out)["layers"][0]["norm_before"] > 1e-3


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["chains"], "--module expects package.module:Class, got 'chains'"),
        (
            ["chain:Chain"],
            "--module chain:Chain cannot be imported: ModuleNotFoundError: "
            "No module named 'chain'",
        ),
        (
            ["faulty:Chain"],
            "--module faulty:Chain cannot be imported: AttributeError: module 'torch' "
            "has no attribute 'nothing'",
        ),
        (["chains:Chian"], "--module chains:Chian: chains has no 'Chian'"),
        (["chains:function"], "--module chains:function is not a class of modules"),
        (
            ["chains:Chain"],
            "--module chains:Chain takes other arguments: missing a required argument: "
            "'weight', give --set NAME=VALUE",
        ),
        (
            ["chains:Chain", "--set", "width=3"],
            "--module chains:Chain takes other arguments: missing a required argument: "
            "'weight', give --set NAME=VALUE",
        ),
        (
            ["chains:Refusing"],
            "--module chains:Refusing cannot be built: RuntimeError: no such thing",
        ),
        (
            ["chains:Batchless"],
            "--module chains:Batchless has neither train_dataloader() nor "
            "example_input_array",
        ),
        pytest.param(
            ["chains:Lossless", "--set", "weight=1"],
            "chains:Lossless cannot be inspected: no backward pass was made",
            marks=pytest.mark.filterwarnings("ignore:`training_step` returned `None`"),
        ),
        (
            ["chains:Unoptimized", "--set", "weight=1"],
            "chains:Unoptimized cannot be trained: No `configure_optimizers()` method "
            "defined",
        ),
        (
            ["chains:Batchless", "--model", "mlp"],
            "--model is for bundled models, not for --module",
        ),
        (
            ["chains:Batchless", "--full-batch"],
            "--full-batch is for bundled models, not for --module",
        ),
        (
            ["chains:TwoOptimizers", "--set", "weight=1"],
            "chains:TwoOptimizers cannot be trained: Training with multiple optimizers "
            "is only supported with manual optimization",
        ),
        (
            ["chains:Forwardless"],
            "chains:Forwardless has no forward() to give example_input_array to",
        ),
        (["chains:Chain", "--set", "weight"], "--set expects KEY=VALUE, got 'weight'"),
        *(
            (
                ["chains:Chain", "--seed", seed],
                f"seed should be a whole number below 2^32, got '{seed}'",
            )
            for seed in ("x", "", "4294967296")
        ),
    ],
)
def test_mistake_is_one_sentence(
    call: Call, arguments: list[str], sentence: str
) -> None:
    code, out, err = call("--module", *arguments)

    assert (code, out, err) == (2, "", f"gradguard: error: {sentence}\n")


def test_module_without_a_batch_is_refused() -> None:
    with pytest.raises(ConfigError, match="neither train_dataloader"):
        inspect_module("torch.nn:Identity", arguments=(), seed="0")


def test_setting_that_is_none_is_refused_by_name(call: Call) -> None:
    code, _, err = call("--model", "deep_mlp", "--set", "model.dept=3")

    assert code == 2
    assert "did you mean model.depth?" in err


def test_json_tells_an_infinity_as_text(call: Call) -> None:
    arguments: list[Any] = ["--model", "deep_mlp", "--full-batch", "--json"]
    for setting in ("depth=50", "width=64", "activation=relu"):
        arguments += ["--set", f"model.{setting}"]

    code, out, _ = call(*arguments)

    assert code == 0
    assert "NaN" not in out
    assert json.loads(out)["loss"] == "Infinity"
