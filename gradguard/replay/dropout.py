"""A step without its dropout, so that samples can be compared."""

from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_DROPOUT = {
    functional.alpha_dropout,
    functional.dropout,
    functional.dropout1d,
    functional.dropout2d,
    functional.dropout3d,
    functional.feature_alpha_dropout,
    torch.dropout,
}


class NoDropout(TorchFunctionMode):
    """Calls of dropout return their input.

    Attributes:
        used: Whether there was one that would have dropped something.
    """

    def __init__(self) -> None:
        super().__init__()
        self.used = False

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run a call, unless it drops."""
        kwargs = kwargs or {}
        if func in _DROPOUT:
            self.used = self.used or _drops(*args, **kwargs)
            return args[0] if args else kwargs["input"]
        if kwargs.get("dropout_p"):
            self.used, kwargs = True, {**kwargs, "dropout_p": 0.0}
        elif func is functional.multi_head_attention_forward:
            # Trained or not, all that differs is its dropout.
            self.used = self.used or kwargs.get("training", True)
            kwargs = {**kwargs, "training": False}
        return func(*args, **kwargs)


def _drops(
    _input: Any = None, p: float = 0.5, train: bool = True, *_: Any, **options: Any
) -> bool:
    return p > 0 and bool(options.get("training", train))
