"""One operation of ATen's as it runs: what it reads, and what it writes."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from gradguard.replay.cause import Values
from gradguard.replay.values import broken, has_memory, repair, repaired, values

# In-place operations that do not look at what they overwrite.
_OVERWRITE = {
    "bernoulli_",
    "cauchy_",
    "copy_",
    "exponential_",
    "fill_",
    "geometric_",
    "log_normal_",
    "normal_",
    "random_",
    "resize_",
    "set_",
    "uniform_",
    "zero_",
}
# What torch makes of a number in the user's code.
_LITERAL = {"lift", "lift_fresh", "lift_fresh_copy"}


class Running:
    """An operation with its arguments.

    Args:
        func: The operation.
        args: As it is called.
        kwargs: Likewise.

    Attributes:
        kernel: Its name in ATen.
        mutates: Whether it writes into arguments.
        read: The tensors that it reads, and what it calls them.
        given: What those held before it ran, in the same order.
        numbers: Those among its arguments that are no tensors.
    """

    def __init__(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self.kernel: str = func._schema.name.rpartition("::")[2]
        self.mutates: bool = func._schema.is_mutable
        self._func, self._args, self._kwargs = func, args, kwargs
        self.read = [
            (argument.name, tensor)
            for argument, value in self._arguments()
            if self._is_read(argument)
            for tensor in _tensors(value)
        ]
        self.numbers = [
            float(value)
            for value in tree_leaves((args, kwargs))
            if isinstance(value, int | float) and not isinstance(value, bool)
        ]
        self.given = [
            tensor.clone() if self.mutates else tensor for _, tensor in self.read
        ]

    def run(self) -> Any:
        """Run it."""
        return self._func(*self._args, **self._kwargs)

    def written(self, output: Any) -> list[Tensor]:
        """Return what it wrote, given what it returned."""
        found = {id(tensor): tensor for tensor in _tensors(output)}
        for argument, value in self._arguments():
            if argument.is_write:
                found.update((id(tensor), tensor) for tensor in _tensors(value))
        return [*found.values()]

    def inputs(self) -> tuple[Values, ...]:
        """Return what it read, masks aside."""
        return tuple(
            values(given, name)
            for (name, _), given in zip(self.read, self.given, strict=True)
            if given.dtype is not torch.bool
        )

    def was_told_to(self, *, write_nan: bool) -> bool:
        """Whether the user's code asked for the Inf, or else for the NaN, it writes."""
        if not self.read or self.kernel in _LITERAL:
            return True
        return any(
            math.isnan(number) if write_nan else not math.isfinite(number)
            for number in self.numbers
        )

    def multiplies_by(self, scale: float) -> bool:
        """Whether it multiplies by a scale other than 1."""
        factors = [float(t.detach()) for t in self.given if t.numel() == 1]
        factors += self.numbers
        return scale != 1 and self.kernel in ("mul", "mul_") and scale in factors

    def peak(self) -> float | None:
        """Return the largest magnitude it gives in float64; None if not finite there."""
        output = self._again(lambda t: t.double() if t.is_floating_point() else t)
        found = [float(t.abs().max()) for t in _tensors(output) if t.numel()]
        largest = max(found, default=math.inf)
        return largest if math.isfinite(largest) else None

    def breaks_by_itself(self) -> bool:
        """Whether it breaks unasked, even if what it reads is repaired."""
        if not all(map(math.isfinite, self.numbers)):
            return False
        return any(map(broken, _tensors(self._on_repaired())))

    def cure(self, output: Any) -> None:
        """Repair, in what it returned, whatever it breaks by itself."""
        returned, alone = _tensors(output), _tensors(self._on_repaired())
        if len(alone) != len(returned):  # it cannot be run again
            alone = returned
        for tensor, own in zip(returned, alone, strict=True):
            if broken(own):
                repair(tensor, where=own)

    def _on_repaired(self) -> Any:
        return self._again(lambda t: repaired(t) if broken(t) else t)

    def _again(self, change: Callable[[Tensor], Tensor]) -> Any:
        """Run it on other tensors; return None if that cannot be done."""
        if torch.Tag.nondeterministic_seeded in self._func.tags:
            return None  # random numbers drawn now would be missed later
        before = {id(t): g for (_, t), g in zip(self.read, self.given, strict=True)}

        def changed(value: Any) -> Any:
            if isinstance(value, torch.dtype) and value.is_floating_point:
                return change(torch.empty(0, dtype=value)).dtype
            if not isinstance(value, Tensor):
                return value
            value = change(before.get(id(value), value))
            return value.clone() if self.mutates else value

        args, kwargs = tree_map(changed, (self._args, self._kwargs))
        try:
            return self._func(*args, **kwargs)
        except (RuntimeError, TypeError):  # there is no such kernel
            return None

    def _arguments(self) -> Iterator[tuple[Any, Any]]:
        """Yield the arguments given, each beside what the schema says of it."""
        for place, argument in enumerate(self._func._schema.arguments):
            if place < len(self._args):
                yield argument, self._args[place]
            elif argument.name in self._kwargs:
                yield argument, self._kwargs[argument.name]

    def _is_read(self, argument: Any) -> bool:
        """Whether the numbers of an argument matter, not only its shape."""
        if self.kernel.endswith("_like") or self.kernel.startswith("new_"):
            return False
        return not argument.is_write or not (
            argument.is_out or self.kernel in _OVERWRITE
        )


def _tensors(value: Any) -> list[Tensor]:
    return [
        leaf
        for leaf in tree_leaves(value)
        if isinstance(leaf, Tensor) and has_memory(leaf)
    ]
