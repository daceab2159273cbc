"""The optimizers of the bundled models, by name."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Literal

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

OptimizerName = Literal["sgd", "adam", "adamw", "rmsprop"]
MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]


def optimizer_maker(
    name: OptimizerName, *, lr: float, momentum: float, weight_decay: float
) -> MakeOptimizer:
    """Return the function from parameters to the optimizer of that name.

    RMSprop has Keras' constants, rho 0.9 and epsilon 1e-7, because the bundled
    experiments were written with them; torch's own are 0.99 and 1e-8.

    Args:
        name: Which optimizer.
        lr: Learning rate, positive.
        momentum: Momentum of `sgd`; the other three keep a momentum of their own.
        weight_decay: L2 penalty, for `adamw` decoupled weight decay; 0 for none.
    """
    makers: dict[OptimizerName, Callable[..., Optimizer]] = {
        "sgd": partial(SGD, momentum=momentum),
        "adam": Adam,
        "adamw": AdamW,
        "rmsprop": partial(RMSprop, alpha=0.9, eps=1e-7),
    }
    return partial(makers[name], lr=lr, weight_decay=weight_decay)
