"""Gradients ahead of the hooks that users put on parameters: `p.register_hook(clamp)`."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed

from gradguard.gradients.norms import Gradients


def has_tensor_hooks(parameter: Tensor) -> bool:
    """Whether somebody has put a hook on a parameter that may change its gradient."""
    return bool(parameter._backward_hooks) and parameter.requires_grad


class BeforeTensorHooks:
    """Keep the gradients of some parameters as they were before their tensor hooks.

    Autograd calls the hooks of a parameter in the order of a dictionary, in which ours is
    put first. Gradients are summed up until they are taken, as autograd sums them up.

    Args:
        parameters: `P`, of which only those with hooks cost anything.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._kept: dict[int, Tensor] = {}
        self._handles: list[Any] = []
        for column, parameter in enumerate(parameters):
            if has_tensor_hooks(parameter):
                see = partial(self._see, column, parameter)
                handle: Any = parameter.register_hook(see)  # type: ignore[no-untyped-call]
                hooks: Any = parameter._backward_hooks
                ours, theirs = hooks.popitem(), list(hooks.items())
                hooks.clear()  # not `move_to_end`: C++ sees the order of insertion
                hooks.update([ours, *theirs])
                self._handles.append(handle)

    def put_into(self, row: Tensor) -> Tensor:
        """Return norms `[P]` with those of the gradients kept in their places."""
        if not self._kept:
            return row
        norms = Gradients(self._kept.values()).norms()
        columns = torch.tensor(list(self._kept), device=row.device)
        return row.index_copy(0, columns, norms.to(row))

    def forget(self) -> None:
        """Begin the sums anew: the gradients were used."""
        self._kept.clear()

    def close(self) -> None:
        """Take our hooks off."""
        while self._handles:
            self._handles.pop().remove()

    def _see(self, column: int, parameter: Tensor, gradient: Tensor) -> None:
        held = self._kept.get(column, parameter.grad)
        # A copy: the next hook may work in place.
        self._kept[column] = gradient.clone() if held is None else held + gradient


def before_tensor_hooks(parameters: Sequence[Tensor]) -> BeforeTensorHooks | None:
    """Return what keeps gradients; None without hooks, and where processes share them.

    There the hooks see a process's own gradients, which are reduced later.
    """
    several = distributed.is_available() and distributed.is_initialized()
    if several and distributed.get_world_size() > 1:
        return None
    hooked = any(map(has_tensor_hooks, parameters))
    return BeforeTensorHooks(parameters) if hooked else None
