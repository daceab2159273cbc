"""One hidden layer on unscaled regression targets: the gradients explode."""

from typing import ClassVar, Literal

from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.functional import mse_loss, relu
from torch.optim import Optimizer
from torchmetrics.functional import mean_squared_error
from typing_extensions import override

from gradguard.models.optimizers import OptimizerName, optimizer_maker


class MLP(LightningModule):
    """y = W2 relu(W1 x + b1) + b2, trained on the mean squared error.

    On `RegressionData` the targets have a standard deviation of 153, the first
    gradient a norm of about 450, and without clipping the loss is no longer finite
    after 6 to 9 steps.

    Args:
        width: Hidden units.
        optimizer: `sgd`, `adam`, `adamw` or `rmsprop`.
        lr: Learning rate.
        momentum: Momentum of `sgd`; the others ignore it.
        weight_decay: Weight decay of the optimizer.

    References:
        Jason Brownlee, "How to Avoid Exploding Gradients With Gradient Clipping",
        https://machinelearningmastery.com/how-to-avoid-exploding-gradients-in-neural-networks-with-gradient-clipping/,
        2019.
    """

    activation: ClassVar[Literal["relu"]] = "relu"

    def __init__(
        self,
        *,
        width: int = 25,
        optimizer: OptimizerName = "sgd",
        lr: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.hidden = nn.Linear(20, width)
        self.output = nn.Linear(width, 1)
        nn.init.kaiming_uniform_(self.hidden.weight, nonlinearity="relu")
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.hidden.bias)
        nn.init.zeros_(self.output.bias)
        self.make_optimizer = optimizer_maker(
            optimizer, lr=lr, momentum=momentum, weight_decay=weight_decay
        )

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Return the predictions `[N]` for the inputs `x` of shape `[N, 20]`."""
        (hidden,) = self.activations(x)
        predicted: Tensor = self.output(hidden)
        return predicted.squeeze(-1)

    def activations(self, x: Tensor) -> list[Tensor]:
        """Return the outputs of the hidden units, one tensor `[N, width]`."""
        return [relu(self.hidden(x))]

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = mse_loss(self(x), y)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    @override
    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        self.log("val_loss", mse_loss(self(x), y), prog_bar=True)

    @override
    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        predicted = self(x)
        self.log("test_loss", mse_loss(predicted, y))
        self.log("test_mse", mean_squared_error(predicted, y))

    @override
    def configure_optimizers(self) -> Optimizer:
        return self.make_optimizer(self.parameters())
