"""Healthy steps with NaN and Inf on the way that reach neither loss nor gradient."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.support.planted import (
    INF,
    NAN,
    ROWS,
    Attention,
    Checkpointed,
    Embedded,
    Masked,
    Net,
    Scaled,
)


@dataclass
class Healthy:
    """A step in which nothing breaks, whatever NaN and Inf there are on the way."""

    title: str
    module: Callable[[], nn.Module]
    batches: dict[int, Any] = field(default_factory=lambda: {0: ROWS})
    autocast: torch.dtype | None = None
    loss_scale: float = 1.0


def partly_masked_softmax(x: Tensor) -> Tensor:
    return x.masked_fill(x % 4 == 0, -INF).softmax(dim=-1)


def causal_by_adding(x: Tensor) -> Tensor:
    mask = torch.full((3, 3), -INF).triu(1)
    return torch.softmax(x @ x.T + mask, dim=-1) @ x


def double_where(x: Tensor) -> Tensor:
    y = x - 3
    safe = torch.where(y > 0, y, 1.0)
    return torch.where(y > 0, safe.log(), 0.0)


def where_over_nan(x: Tensor) -> Tensor:
    noise = (x.detach() - 3).log()
    return x * torch.where(noise.isfinite(), noise, 1.0)


def mask_over_inf(x: Tensor) -> Tensor:
    penalty = 1 / (x.detach() - 1)
    return x * penalty.masked_fill(penalty.isinf(), 0.0)


def nan_to_num_of_log(x: Tensor) -> Tensor:
    return x * (x.detach() - 1).log().nan_to_num(neginf=0.0)


def nanmean_over_gaps(x: Tensor) -> Tensor:
    return x.masked_fill(x == 4, NAN).nanmean(dim=0)


def padded_max_pool(x: Tensor) -> Tensor:
    padded = functional.pad(x, (1, 1), value=-INF)
    return functional.max_pool1d(padded, 3, stride=1)


def topk_of_masked(x: Tensor) -> Tensor:
    return x.masked_fill(x % 2 == 0, -INF).topk(2, dim=-1).values


def logsumexp_of_some(x: Tensor) -> Tensor:
    return x.masked_fill(x % 2 == 0, -INF).logsumexp(dim=-1)


def clamped_inf(x: Tensor) -> Tensor:
    far = x.detach() * INF
    return x + far.clamp(max=10.0)


def exp_of_minus_inf(x: Tensor) -> Tensor:
    return x * (x.detach() - 1).log().exp()


def cross_entropy_with_mask(x: Tensor) -> Tensor:
    logits = x.masked_fill(torch.eye(3, 4, dtype=torch.bool), -INF)
    return functional.cross_entropy(logits, torch.tensor([1, 2, 3]))


def norms_at_zero(x: Tensor) -> Tensor:
    y = x * 0
    length: Tensor = y.norm(dim=-1)
    return length + y.std(dim=-1) + torch.atan2(y, y).sum(dim=-1)


def uninitialised_then_filled(x: Tensor) -> Tensor:
    buffer = torch.empty(3, 4).fill_(NAN)
    buffer.copy_(x.detach())
    return x * buffer


def broken_but_unused(x: Tensor) -> Tensor:
    torch.log(x - 100)
    metric = (x.detach() - x.detach()).reciprocal().mean()
    assert not metric.isfinite()
    return x


def minimum_starts_at_inf(x: Tensor) -> Tensor:
    best = torch.full((3,), INF)
    for column in x.unbind(dim=1):
        best = torch.minimum(best, column)
    return best


HEALTHY = [
    Healthy("nothing", lambda: Net(torch.tanh)),
    Healthy("partly masked softmax", lambda: Net(partly_masked_softmax)),
    Healthy("causal mask by adding", lambda: Net(causal_by_adding)),
    Healthy("double where", lambda: Net(double_where)),
    Healthy("where over NaN", lambda: Net(where_over_nan)),
    Healthy("mask over Inf", lambda: Net(mask_over_inf)),
    Healthy("nan_to_num of log", lambda: Net(nan_to_num_of_log)),
    Healthy("nanmean over gaps", lambda: Net(nanmean_over_gaps)),
    Healthy("padded max pool", lambda: Net(padded_max_pool)),
    Healthy("topk of masked", lambda: Net(topk_of_masked)),
    Healthy("logsumexp of some", lambda: Net(logsumexp_of_some)),
    Healthy("clamped Inf", lambda: Net(clamped_inf)),
    Healthy("exp of -Inf", lambda: Net(exp_of_minus_inf)),
    Healthy("cross entropy with mask", lambda: Net(cross_entropy_with_mask)),
    Healthy("norms that torch guards", lambda: Net(norms_at_zero)),
    Healthy("filled before use", lambda: Net(uninitialised_then_filled)),
    Healthy("broken but unused", lambda: Net(broken_but_unused)),
    Healthy("minimum that starts at Inf", lambda: Net(minimum_starts_at_inf)),
    Healthy(
        "a mask in the batch",
        Attention,
        batches={0: (ROWS.reshape(1, 1, 3, 4), torch.full((3, 3), -INF).triu(1))},
    ),
    Healthy(
        "padding that leaves some",
        Masked,
        batches={0: (ROWS.reshape(1, 3, 4), torch.tensor([[False, False, True]]))},
    ),
    Healthy(
        "embedding row that is not read", Embedded, batches={0: torch.tensor([1, 2, 5])}
    ),
    Healthy(
        "float16 with a scale that fits", Scaled, autocast=torch.float16, loss_scale=8.0
    ),
    Healthy(
        "checkpointed", lambda: Checkpointed(reentrant=False), batches={0: ROWS + 1}
    ),
]
