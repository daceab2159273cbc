"""The bundled models with their data and loss, and a plain loop that trains them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from gradguard.data.circles import CirclesData
from gradguard.data.digit_sum import DigitSumData
from gradguard.data.regression import RegressionData
from gradguard.models.deep_mlp import DeepMLP
from gradguard.models.mlp import MLP
from gradguard.models.srn import SRN

Parameters = list[torch.nn.Parameter]

SYSTEMS: dict[str, tuple[Any, Any, Callable[[Tensor, Tensor], Tensor]]] = {
    "mlp": (MLP, RegressionData, functional.mse_loss),
    "deep_mlp": (DeepMLP, CirclesData, functional.binary_cross_entropy_with_logits),
    "srn": (
        SRN,
        DigitSumData,
        lambda logits, y: functional.cross_entropy(logits, y, reduction="sum"),
    ),
}


def by_norm(parameters: Parameters) -> None:
    clip_grad_norm_(parameters, 0.5)


def by_value(parameters: Parameters) -> None:
    clip_grad_value_(parameters, 0.05)


def by_both(parameters: Parameters) -> None:
    by_norm(parameters)
    by_value(parameters)


def by_nothing(_: Parameters) -> None: ...


def norms(parameters: Parameters) -> list[float]:
    return [float(p.grad.double().norm()) for p in parameters]  # type: ignore[union-attr] # all are used


def plain_loop(
    model: LightningModule,
    batches: list[tuple[Tensor, Tensor]],
    loss: Callable[[Tensor, Tensor], Tensor],
    clip: Callable[[Parameters], None],
) -> tuple[NDArray[Any], NDArray[Any]]:
    parameters = list(model.parameters())
    optimizer: Any = model.configure_optimizers()
    before, after = [], []
    for x, y in batches:
        optimizer.zero_grad()
        loss(model(x), y).backward()  # type: ignore[no-untyped-call]
        before.append(norms(parameters))
        clip(parameters)
        after.append(norms(parameters))
        optimizer.step()
    return np.array(before), np.array(after)


def weights(model: LightningModule) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])
