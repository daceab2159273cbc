"""Which call of the user's an operation belongs to, in the forward and backward pass."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from gradguard.replay.cause import Direction
from gradguard.replay.site import Site, call_site, inside_backward, is_users, spoken

_BACKWARD = (Tensor.backward, torch.autograd.backward)
# Calls that consist of others, by which they are told.
_TRANSPARENT = (torch.autograd.grad, functional.multi_head_attention_forward)
# Calls that pick elements, and so can hide a broken one that is not picked.
_PICK = ("where", "masked_fill", "masked_scatter")
_FAR = 30  # calls between one whose gradient breaks and one that picks

_next_node: Callable[[], int] = torch._C._autograd._get_sequence_nr
_running_node: Callable[[], Any] = torch._C._current_autograd_node


class Calls(TorchFunctionMode):
    """Remember the user's calls of torch, and which call made which autograd node.

    Nodes are numbered as they are made, so that a call owns a range of numbers.

    Args:
        paths: Of the modules that are named, as `module_paths` gives them.
        before_backward: Given the losses that a backward pass is about to start from.
        after_backward: Called when it has ended.
    """

    def __init__(
        self,
        paths: Mapping[int, str],
        *,
        before_backward: Callable[[Iterable[Tensor]], None],
        after_backward: Callable[[], None],
    ) -> None:
        super().__init__()
        self._paths = paths
        self._before_backward = before_backward
        self._after_backward = after_backward
        self._open: Site | None = None
        self._sites: dict[int, Site] = {}
        self._readers: dict[int, int] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run a call, and remember it."""
        kwargs = kwargs or {}
        if func in _BACKWARD:
            return self._backward(func, *args, **kwargs)
        if func in _TRANSPARENT:
            return func(*args, **kwargs)
        first, before = _next_node(), self._open
        self._open, applied = call_site(getattr(func, "__name__", ""), self._paths)
        try:
            return func(*args, **kwargs)
        finally:
            # The node of a custom Function is made before the Function runs.
            for number in range(first - applied, _next_node()):
                self._sites.setdefault(number, self._open)
            self._open = before

    def _backward(self, run: Any, tensors: Any, *args: Any, **kwargs: Any) -> None:
        self._before_backward([tensors] if isinstance(tensors, Tensor) else tensors)
        run(tensors, *args, **kwargs)
        self._after_backward()

    def here(self, kernel: str) -> tuple[Site, Direction]:
        """Return the call that runs now, and in which pass it runs."""
        node = _running_node()
        if node is not None:
            runner = inside_backward()
            if runner == "engine" or (runner == "python" and _is_custom(node)):
                return self._of_node(node), "backward"
            site = call_site(kernel, self._paths)[0]
            return site, "forward" if runner == "checkpoint" else "backward"
        return self._open or call_site(kernel, self._paths)[0], "forward"

    def made(self, site: Site) -> None:
        """Remember who made the last node, where no call owns it."""
        if torch.is_grad_enabled():
            self._sites.setdefault(_next_node() - 1, site)

    def picked_by(self) -> str | None:
        """Return the call that picks elements of what the running node once made.

        It is looked for among the calls that used the output, and theirs.
        """
        node = _running_node()
        number = node._sequence_nr() if node is not None else None
        for _ in range(_FAR):
            number = self._readers.get(number) if number is not None else None
            site = self._sites.get(number) if number is not None else None
            if site is not None and site.operation in _PICK:
                return site.operation
        return None

    def _of_node(self, node: Any) -> Site:
        number = node._sequence_nr()
        for inner, _ in node.next_functions:
            if inner is not None:
                self._readers.setdefault(inner._sequence_nr(), number)
        return self._sites.get(number) or _unknown(node.name())


def _is_custom(node: Any) -> bool:
    """Whether a node is that of a custom Function of the user's."""
    function = getattr(type(node), "_forward_cls", None)
    return function is not None and is_users(function)


def _unknown(name: str) -> Site:
    """Return the site of a node that was made unseen, by its name: "SqrtBackward0"."""
    name = re.sub(r"Backward\d*$", "", name.rpartition("::")[2])
    snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    return Site(operation=spoken(snake), module="", file=None, number=0)
