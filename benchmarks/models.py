"""What the benchmarks train: models from 7 tensors to 124 million parameters."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from typing_extensions import override

from gradguard.data.digit_sum import digit_sums, random_state
from gradguard.models.deep_mlp import DeepMLP
from gradguard.models.srn import SRN

Batch = tuple[Tensor, Tensor]


class Endless:
    """The same few batches over and over, ready in memory, until it is `over`."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches
        self.over = False

    def __iter__(self) -> Iterator[Batch]:
        while not self.over:
            yield from self.batches


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): the twelve tensors of GPT-2."""

    def __init__(self, width: int, *, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    @override
    def forward(self, x: Tensor) -> Tensor:
        split = self.qkv(self.norm_1(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = split.permute(2, 0, 3, 1, 4)
        heads = scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(heads.transpose(1, 2).flatten(-2))
        out: Tensor = x + self.down(nn.functional.gelu(self.up(self.norm_2(x))))
        return out


class GPT(LightningModule):
    """Predict the next token, as GPT-2 does, without dropout."""

    def __init__(self, *, width: int, heads: int, vocabulary: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(1024, width)
        self.blocks = nn.Sequential(*(Block(width, heads=heads) for _ in range(12)))
        self.norm = nn.LayerNorm(width)

    @override
    def training_step(self, batch: Batch, _: int) -> Tensor:
        tokens, targets = batch
        places = torch.arange(tokens.shape[1], device=tokens.device)
        hidden = self.norm(self.blocks(self.tokens(tokens) + self.places(places)))
        logits = hidden @ self.tokens.weight.T
        loss = cross_entropy(logits.flatten(0, 1), targets.flatten())
        self.log("train_loss", loss)
        return loss

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-4)


class Many(LightningModule):
    """Nothing but parameters, `count` of them, so that a step is little else."""

    def __init__(self, *, count: int, size: int = 16) -> None:
        super().__init__()
        self.vectors = nn.ParameterList(torch.ones(size) for _ in range(count))

    @override
    def training_step(self, batch: Batch, _: int) -> Tensor:
        loss = (batch[0].mean() + torch.stack(list(self.vectors))).square().sum()
        self.log("train_loss", loss)
        return loss

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-4)


@dataclass(frozen=True)
class Workload:
    """A model and its batches.

    Attributes:
        model: Makes the model; call it with torch's generator seeded.
        batches: Makes the batches.
        block: Steps between two changes of the arm, a multiple of the log interval.
        log_every: Steps between two writes.
    """

    model: Callable[[], LightningModule]
    batches: Callable[[], list[Batch]]
    block: int = 200
    log_every: int = 50


def _sequences(
    batch_size: int, length: int, *, vocabulary: int, count: int = 4
) -> list[Batch]:
    tokens = torch.randint(vocabulary, (count, batch_size, length + 1))
    return [(each[:, :-1], each[:, 1:]) for each in tokens]


def _digits() -> list[Batch]:
    digits, sums = digit_sums(20, repeats=3, random=random_state(20))
    rows = [slice(first, first + 64) for first in range(0, 256, 64)]
    return [(digits[each], sums[each]) for each in rows]


def _points() -> list[Batch]:
    points = torch.randn(4, 32, 2)
    return [(each, (each.norm(dim=1) > 1).float()) for each in points]


def _nothing() -> list[Batch]:
    return [(torch.zeros(1), torch.zeros(1))]


def many(count: int) -> Workload:
    """Return the workload of `count` small tensors."""
    return Workload(partial(Many, count=count), _nothing)


WORKLOADS: dict[str, Workload] = {
    "srn": Workload(SRN, _digits),
    "deep-mlp": Workload(
        partial(
            DeepMLP, depth=49, width=32, activation="relu", init="he", shortcut=True
        ),
        _points,
    ),
    "gpt-like": Workload(
        partial(GPT, width=256, heads=4, vocabulary=512),
        partial(_sequences, 8, 64, vocabulary=512),
        block=12,
        log_every=12,
    ),
    "gpt2": Workload(
        partial(GPT, width=768, heads=12, vocabulary=50257),
        partial(_sequences, 1, 128, vocabulary=50257),
        block=2,
        log_every=2,
    ),
    "many": Workload(partial(Many, count=2000), _nothing, block=50),
}


def count_tensors(module: Any) -> int:
    """Return the number of parameters, as tensors: `P`."""
    return len(list(module.parameters()))
