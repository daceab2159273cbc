"""Gradients in, L2 norms out: one pass over the gradients, no host sync on accelerators.

Norms are right where torch's own are not: half precision accumulates in float32, sparse
and complex gradients count like any other, and on the CPU a float32 norm whose squares
overflow or underflow is measured again in float64.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_dtype, _layout = attrgetter("dtype"), attrgetter("layout")

_HALF = (torch.float16, torch.bfloat16)

# Numbers up to which a list is looked through faster than an array.
_SHORT = 512

# Squares of elements around 1e-19 are float32 denormals and lose their digits. A norm
# above this bound can hold such elements only in a share that does not matter.
_SMALLEST_EXACT = 1e-15


def plain(gradient: Tensor) -> Tensor:
    """Return the dense, real tensor that holds a gradient's numbers.

    It is the gradient itself, or a view that shares its memory, except for a sparse
    gradient that is not coalesced yet: its duplicates are summed into a copy.
    """
    if gradient.layout is not torch.strided:
        gradient = gradient.coalesce().values()
    return torch.view_as_real(gradient) if gradient.is_complex() else gradient


class Gradients:
    """The gradients of one optimizer at one moment, as the foreach kernels want them.

    Args:
        gradients: Any mix of dtypes, devices and layouts, in the optimizer's order.
        parameters: Whose gradients they are, in the same order, for policies that look
            at weights or names.
        names: Names of parameters, at least of these.
        whole: What makes norms of whole gradients of the norms of these, where these
            are shards.

    Attributes:
        tensors: One dense real tensor per gradient (see `plain`).
        parameters: As given.
        groups: The positions in `tensors` that share a dtype and a device.
    """

    def __init__(
        self,
        gradients: Iterable[Tensor],
        *,
        parameters: Sequence[Tensor] = (),
        names: Mapping[Tensor, str] | None = None,
        whole: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._gradients = list(gradients)
        self._names = names or {}
        self._whole = whole
        self.parameters = parameters
        self.groups: dict[tuple[torch.dtype, torch.device], Sequence[int]]
        if _all_plain_and_alike(self._gradients):
            self.tensors, (first, *_) = self._gradients, self._gradients
            self.groups = {(first.dtype, first.device): range(len(self.tensors))}
            return
        self.tensors = [plain(gradient) for gradient in self._gradients]
        groups: dict[tuple[torch.dtype, torch.device], list[int]] = {}
        for position, tensor in enumerate(self.tensors):
            groups.setdefault((tensor.dtype, tensor.device), []).append(position)
        self.groups = {**groups}

    def __bool__(self) -> bool:
        """Whether there are gradients, be it on other ranks only."""
        return bool(self.tensors) or self._whole is not None

    @property
    def on_host(self) -> bool:
        """Whether all numbers are whole in host memory, where looking at them is free."""
        on_cpu = all(device.type == "cpu" for _, device in self.groups)
        return on_cpu and self._whole is None

    @property
    def any_half(self) -> bool:
        """Whether some gradient rounds to float16 or bfloat16."""
        return any(dtype in _HALF for dtype, _ in self.groups)

    @property
    def are_plain(self) -> bool:
        """Whether all are dense and real, of one dtype and on one device."""
        return self.tensors is self._gradients

    @property
    def any_sparse(self) -> bool:
        """Whether some gradient holds the rows only that the loss has reached."""
        return any(each.layout is torch.sparse_coo for each in self._gradients)

    @property
    def are_shards(self) -> bool:
        """Whether the tensors are parts of gradients, spread over processes."""
        return self._whole is not None

    @property
    def names(self) -> tuple[str, ...]:
        """Name of the parameter of each gradient, "" where it has none."""
        return tuple(self._names.get(parameter, "") for parameter in self.parameters)

    def weights(self) -> Iterator[Tensor]:
        """Yield the parameters' own values, of sparse gradients' only the rows it has."""
        for gradient, parameter in zip(self._gradients, self.parameters, strict=True):
            value = parameter.detach()
            if gradient.layout is torch.sparse_coo:
                value = value[gradient.coalesce().indices().unbind()]
            yield torch.view_as_real(value) if value.is_complex() else value

    def subset(self, positions: Sequence[int]) -> "Gradients":
        """Return some of the gradients, whose norms are those they have among all."""
        return Gradients(
            [self._gradients[position] for position in positions],
            parameters=[self.parameters[position] for position in positions],
            names=self._names,
            # All ranks reduce all norms, whichever of them this is about.
            whole=(lambda _: pick(self.norms(), positions)) if self._whole else None,
        )

    def at(self, positions: Sequence[int]) -> list[Tensor]:
        """Return the tensors at some positions."""
        if len(positions) == len(self.tensors):
            return self.tensors
        return [self.tensors[position] for position in positions]

    def norms(self, *, exact: bool = False) -> Tensor:
        """Return ||g_i||_2 of every gradient, `[n]`, on the first gradient's device.

        float32; float64 where a gradient is float64 or, on the CPU, a norm needs its
        range.

        Args:
            exact: Sum up in float64 on every device that has it.
        """
        asked = None
        if exact and all(device.type != "mps" for _, device in self.groups):
            asked = torch.float64
        norms = self._norms(asked)
        return norms if self._whole is None else self._whole(norms)

    def largest(self) -> Tensor:
        """Return max |g_i| of every tensor, `[n]`, which no square overflows; 0 if empty."""
        first = self.tensors[0]
        largest = [first.new_zeros(())] * len(self.tensors)
        for positions in self.groups.values():
            filled = [at for at in positions if self.tensors[at].numel()]
            if filled:
                found = torch._foreach_norm(
                    [self.tensors[at] for at in filled], math.inf
                )
                for at, value in zip(filled, found, strict=True):
                    largest[at] = value
        return torch.stack(_alike(largest, first.device))

    def _norms(self, asked: torch.dtype | None) -> Tensor:
        if not self.tensors:
            return torch.zeros(0)
        placed: dict[int, Tensor] = {}
        norms: Sequence[Tensor] = ()
        for (dtype, _), positions in self.groups.items():
            # float16 sums overflow at a norm of 256, bfloat16 sums have 8 bits.
            wide = asked or (torch.float32 if dtype in _HALF else None)
            norms = torch._foreach_norm(self.at(positions), 2.0, dtype=wide)
            if len(norms) < len(self.tensors):
                placed.update(zip(positions, norms, strict=True))
        if placed:
            each = [placed[position] for position in range(len(placed))]
            norms = _alike(each, self.tensors[0].device)
        stacked = torch.stack(norms)  # type: ignore[arg-type] # any sequence will do
        return self._widened(stacked) if stacked.is_cpu else stacked

    def _widened(self, norms: Tensor) -> Tensor:
        """Measure again in float64 what float32 squares cannot hold."""
        host = norms.numpy()
        if _all_exact(host):
            return norms
        overflowed = np.isinf(host)
        inexact = np.flatnonzero(overflowed | (host < _SMALLEST_EXACT))
        if not inexact.size:
            return norms
        again = [self.tensors[position] for position in inexact]
        exact = torch.stack(torch._foreach_norm(again, 2.0, dtype=torch.float64))
        # Without an overflow the dtype stays: the total then rounds as torch's does,
        # and clipping stays bit-identical to `clip_grad_norm_`.
        dtype = torch.float64 if overflowed.any() else norms.dtype
        return norms.to(dtype).index_copy_(
            0, torch.from_numpy(inexact), exact.to(dtype)
        )


def pick(values: Tensor, positions: Sequence[int]) -> Tensor:
    """Return the values at some positions; unlike an index, without a sync."""
    each = values.unbind()
    return torch.stack([each[position] for position in positions])


def total_norm(norms: Tensor) -> Tensor:
    """Return sqrt(sum_i n_i^2): the L2 norm of all gradients laid end to end, 0-d.

    On the CPU a sum of squares beyond float32 is taken in float64.
    """
    total: Tensor = torch.linalg.vector_norm(norms)
    if total.is_cpu and math.isinf(total.numpy()):
        total = torch.linalg.vector_norm(norms, dtype=torch.float64)
    return total


def _all_exact(norms: NDArray[np.floating]) -> bool:
    """Whether no norm is NaN, Inf or too small; on the common way out of every step."""
    if len(norms) > _SHORT:
        return bool(norms[norms.argmin()] >= _SMALLEST_EXACT and norms.max() < np.inf)
    values = norms.tolist()  # a sum is not finite where a value is not
    return bool(min(values) >= _SMALLEST_EXACT and sum(values) < math.inf)


def _all_plain_and_alike(gradients: Sequence[Tensor]) -> bool:
    """Whether gradients are dense and real, of one dtype and on one device."""
    dtypes = set(map(_dtype, gradients))
    # An integer per device, since a process has one kind of accelerator: a fraction of
    # what it takes to make a `torch.device`.
    devices = set(map(Tensor.get_device, gradients))
    layouts = set(map(_layout, gradients))
    alike = len(dtypes) == len(devices) == 1 and layouts == {torch.strided}
    return alike and not gradients[0].is_complex()


def _alike(norms: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Bring norms of several dtypes and devices to one device and the widest dtype."""
    wide = any(norm.dtype is torch.float64 for norm in norms)
    dtype = torch.float64 if wide else torch.float32
    return [norm.to(device=device, dtype=dtype) for norm in norms]
