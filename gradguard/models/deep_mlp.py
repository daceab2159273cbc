"""A stack of small layers on a plane of points: the gradients vanish, or explode."""

from collections.abc import Callable
from functools import partial
from typing import Literal, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim import Optimizer
from torchmetrics.functional.classification import binary_accuracy
from typing_extensions import override

from gradguard.models.optimizers import OptimizerName, optimizer_maker

Activation = Literal["sigmoid", "tanh", "relu"]
Init = Literal["normal", "glorot", "he", "torch"]

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
}


class DeepMLP(LightningModule):
    """`depth` hidden layers and one logit, trained on the binary cross-entropy.

    The loss takes the logit, not its sigmoid: the same function, but exact where the
    sigmoid rounds to 0 or 1, so that an exploding network shows in the loss instead
    of being clamped at a log-loss of 100.

    Args:
        depth: Hidden layers, at least 1.
        width: Units in each hidden layer.
        activation: `sigmoid`, `tanh` or `relu`, of the hidden layers.
        init: Weights from N(0, 1) (`normal`), from Glorot's or He's uniform
            distribution, all with zero biases, or as `torch` fills a `Linear`.
        batch_norm: Normalise each hidden layer before its activation.
        shortcut: Add to each hidden layer's output its input, where widths agree.
        optimizer: `sgd`, `adam`, `adamw` or `rmsprop`.
        lr: Learning rate.
        momentum: Momentum of `sgd`; the others ignore it.
        weight_decay: Weight decay of the optimizer.

    Raises:
        ValueError: If `depth` is less than 1.

    References:
        Adrian Tam, "Visualizing the vanishing gradient problem",
        https://machinelearningmastery.com/visualizing-the-vanishing-gradient-problem/,
        2021. His "3-layer" and "5-layer" networks are `depth=1` and `depth=3` with
        `init="glorot", optimizer="adam"`.
    """

    def __init__(
        self,
        *,
        depth: int = 4,
        width: int = 5,
        activation: Activation = "sigmoid",
        init: Init = "normal",
        batch_norm: bool = False,
        shortcut: bool = False,
        optimizer: OptimizerName = "rmsprop",
        lr: float = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}")
        super().__init__()
        self.save_hyperparameters()
        self.activation = activation
        hidden = partial(
            HiddenLayer,
            out_features=width,
            activation=ACTIVATIONS[activation],
            batch_norm=batch_norm,
            shortcut=shortcut,
        )
        self.hidden = nn.Sequential(
            hidden(2), *(hidden(width) for _ in range(depth - 1))
        )
        self.output = nn.Linear(width, 1)
        for layer in (*self.hidden, self.output):
            initialize(layer, init=init)
        self.make_optimizer = optimizer_maker(
            optimizer, lr=lr, momentum=momentum, weight_decay=weight_decay
        )

    @override
    def forward(self, points: Tensor) -> Tensor:
        """Return the logits `[N]` of class 1 for the `points` of shape `[N, 2]`."""
        logits: Tensor = self.output(self.hidden(points))
        return logits.squeeze(-1)

    def activations(self, points: Tensor) -> list[Tensor]:
        """Return the outputs of each hidden layer's units, `[N, width]` each."""
        given, hidden = [], points
        for layer in cast(list[HiddenLayer], self.hidden):
            given.append(layer.activate(hidden))
            hidden = layer(hidden)
        return given

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        points, labels = batch
        loss = binary_cross_entropy_with_logits(self(points), labels)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    @override
    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        points, labels = batch
        logits = self(points)
        self.log("test_loss", binary_cross_entropy_with_logits(logits, labels))
        # Probabilities, because torchmetrics takes logits that all happen to lie
        # in [0, 1] for probabilities; those of a vanished network do.
        self.log("test_accuracy", binary_accuracy(logits.sigmoid(), labels.int()))

    @override
    def configure_optimizers(self) -> Optimizer:
        return self.make_optimizer(self.parameters())


class HiddenLayer(nn.Linear):
    """h -> activation(norm(W h + b)), plus h where a shortcut is asked and fits.

    A `Linear` itself, so that its parameters are `hidden.0.weight`, `hidden.0.bias`.

    Args:
        in_features: Width of h.
        out_features: Width of the result.
        activation: An elementwise function.
        batch_norm: Whether to normalise W h; there is no b then, since subtracting
            the mean would cancel it and leave a parameter without a gradient.
        shortcut: Whether to add h, if `in_features` equals `out_features`.
    """

    def __init__(
        self,
        in_features: int,
        *,
        out_features: int,
        activation: Callable[[Tensor], Tensor],
        batch_norm: bool,
        shortcut: bool,
    ) -> None:
        super().__init__(in_features, out_features, bias=not batch_norm)
        self.norm = nn.BatchNorm1d(out_features) if batch_norm else nn.Identity()
        self.activation = activation
        self.shortcut = shortcut and in_features == out_features

    def activate(self, input: Tensor) -> Tensor:
        """Return activation(norm(W h + b)), with no shortcut around it."""
        return self.activation(self.norm(super().forward(input)))

    @override
    def forward(self, input: Tensor) -> Tensor:
        output = self.activate(input)
        return input + output if self.shortcut else output


def initialize(layer: nn.Linear, *, init: Init) -> None:
    """Fill the weight of `layer` from the named distribution, its bias with zeros."""
    if init == "torch":
        return
    if init == "normal":
        nn.init.normal_(layer.weight)
    elif init == "glorot":
        nn.init.xavier_uniform_(layer.weight)
    else:
        nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
