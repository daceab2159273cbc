"""The bundled models with their data, and the loss that each is trained by."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional

from gradguard.data.circles import CirclesData
from gradguard.data.digit_sum import DigitSumData
from gradguard.data.regression import RegressionData
from gradguard.models.deep_mlp import DeepMLP
from gradguard.models.mlp import MLP
from gradguard.models.srn import SRN

Batch = tuple[Tensor, Tensor]


def mlp_loss(model: Any, batch: Batch) -> Tensor:
    x, y = batch
    return functional.mse_loss(model(x), y)


def deep_mlp_loss(model: Any, batch: Batch) -> Tensor:
    x, y = batch
    return functional.binary_cross_entropy_with_logits(model(x), y)


def srn_loss(model: Any, batch: Batch) -> Tensor:
    x, y = batch
    return functional.cross_entropy(model(x), y, reduction="sum")


SYSTEMS: dict[str, tuple[Any, Any, Callable[[Any, Batch], Tensor]]] = {
    "mlp": (MLP, RegressionData, mlp_loss),
    "deep_mlp": (DeepMLP, CirclesData, deep_mlp_loss),
    "srn": (SRN, DigitSumData, srn_loss),
}
