"""A recurrent network that adds two digits: its gradients explode, then collapse."""

from collections.abc import Callable
from functools import partial
from typing import ClassVar, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torchmetrics.functional.classification import multiclass_accuracy
from typing_extensions import override

from gradguard.models.optimizers import OptimizerName, optimizer_maker

Cell = Literal["srn", "lstm", "gru"]

NUM_DIGITS = 10
NUM_SUMS = 19  # 0 + 0 to 9 + 9
HIDDEN_SIZE = 32


class SRN(LightningModule):
    """h_t = tanh(x_t W + h_{t-1} U + b), and a linear layer on the last h.

    The cross-entropy is summed over the batch, which makes the learning rate of 0.2
    far too large: within a few steps the recurrent gradients grow by an order of
    magnitude or more, then every tanh is saturated and they are almost zero. The loss
    stays finite throughout. Validation and test log the mean per sample.

    Args:
        cell: `srn`, or `lstm` or `gru`, which are torch's, initialised as torch does.
        reduction: Whether the training loss is the `sum` or the `mean` of the batch.
        optimizer: `sgd`, `adam`, `adamw` or `rmsprop`.
        lr: Learning rate.
        momentum: Momentum of `sgd`; the others ignore it.
        weight_decay: Weight decay of the optimizer.

    References:
        Qiu Xipeng et al., "Neural Networks and Deep Learning: Cases and Practice",
        section 6.2, https://github.com/nndl/practice-in-paddle, 2022.
    """

    activation: ClassVar[Literal["tanh"]] = "tanh"

    def __init__(
        self,
        *,
        cell: Cell = "srn",
        reduction: Literal["sum", "mean"] = "sum",
        optimizer: OptimizerName = "sgd",
        lr: float = 0.2,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.reduction = reduction
        self.embedding = nn.Embedding(NUM_DIGITS, HIDDEN_SIZE)
        self.cell = CELLS[cell](HIDDEN_SIZE, HIDDEN_SIZE)
        self.output = nn.Linear(HIDDEN_SIZE, NUM_SUMS)
        nn.init.xavier_uniform_(self.embedding.weight)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        self.make_optimizer = optimizer_maker(
            optimizer, lr=lr, momentum=momentum, weight_decay=weight_decay
        )

    def hidden_states(self, digits: Tensor) -> Tensor:
        """Return h_1 .. h_L, `[N, L, 32]`, for the `digits` of shape `[N, L]`."""
        states: Tensor = self.cell(self.embedding(digits))[0]
        return states

    def activations(self, digits: Tensor) -> list[Tensor]:
        """Return the outputs of the hidden units at every step, one tensor `[N, L, 32]`."""
        return [self.hidden_states(digits)]

    @override
    def forward(self, digits: Tensor) -> Tensor:
        """Return the logits `[N, 19]` of the sums for the `digits`, `[N, L]`."""
        logits: Tensor = self.output(self.hidden_states(digits)[:, -1])
        return logits

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        digits, sums = batch
        loss = cross_entropy(self(digits), sums, reduction=self.reduction)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    @override
    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._log_metrics(batch, stage="val")

    @override
    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._log_metrics(batch, stage="test")

    def _log_metrics(self, batch: tuple[Tensor, Tensor], *, stage: str) -> None:
        digits, sums = batch
        logits = self(digits)
        self.log(f"{stage}_loss", cross_entropy(logits, sums), prog_bar=True)
        # Micro: the share of correct samples. The default averages over classes.
        accuracy = multiclass_accuracy(logits, sums, NUM_SUMS, average="micro")
        self.log(f"{stage}_accuracy", accuracy, prog_bar=True)

    @override
    def configure_optimizers(self) -> Optimizer:
        return self.make_optimizer(self.parameters())


class SimpleRecurrence(nn.Module):
    """h_t = tanh(x_t W + h_{t-1} U + b) with h_0 = 0, returning what `nn.RNN` does.

    W, U and b are all from Glorot's uniform distribution: b too, of shape `[1, H]`,
    because the original leaves it to Paddle's default for a parameter.

    Args:
        input_size: Width of x_t.
        hidden_size: Width H of h_t.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.empty(input_size, hidden_size))
        self.U = nn.Parameter(torch.empty(hidden_size, hidden_size))
        self.b = nn.Parameter(torch.empty(1, hidden_size))
        for parameter in self.parameters():
            nn.init.xavier_uniform_(parameter)

    @override
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return all states `[N, L, H]` and the last `[N, H]` for x, `[N, L, D]`."""
        h = x.new_zeros(len(x), len(self.U))
        states = []
        for driven in (x @ self.W + self.b).unbind(dim=1):
            h = torch.tanh(driven + h @ self.U)
            states.append(h)
        return torch.stack(states, dim=1), h


CELLS: dict[Cell, Callable[[int, int], nn.Module]] = {
    "srn": SimpleRecurrence,
    "lstm": partial(nn.LSTM, batch_first=True),
    "gru": partial(nn.GRU, batch_first=True),
}
