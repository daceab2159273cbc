"""Gradients in, L2 norms out: one pass over the gradients, no host sync on accelerators.

Norms are right where torch's own are not: half precision accumulates in float32, sparse
and complex gradients count like any other, and on the CPU a float32 norm whose squares
overflow or underflow is measured again in float64.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_HALF = (torch.float16, torch.bfloat16)
_ON_CPU = (torch.float32, torch.device("cpu"))

# Elements up to which calling a kernel costs more than copying them.
_SMALL = 1024

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
    def any_sparse(self) -> bool:
        """Whether some gradient holds the rows only that the loss has reached."""
        if self.tensors is self._gradients:
            return False
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
        has_float64 = all(device.type != "mps" for _, device in self.groups)
        norms = self._norms(torch.float64 if exact and has_float64 else None)
        return norms if self._whole is None else self._whole(norms)

    def quick_norms(self) -> Tensor:
        """Return what `norms` does, up to rounding, by the fastest way there is.

        On the CPU a kernel for each small gradient costs more than its arithmetic, so
        they are laid end to end. Their squares are summed in float64, where nothing
        overflows; `norms` rounds as torch's own clip does.
        """
        if self.groups.keys() != {_ON_CPU} or self._whole is not None:
            return self.norms()
        sizes = [tensor.numel() for tensor in self.tensors]
        small = [place for place, size in enumerate(sizes) if 0 < size <= _SMALL]
        if len(small) < len(sizes):
            return self._norms_apart(small) if small else self.norms()
        flat = torch._C._nn.flatten_dense_tensors(self.tensors)  # as DDP's buckets
        squares = np.square(flat.numpy(), dtype=np.float64)
        norms = np.sqrt(np.add.reduceat(squares, _starts(tuple(sizes))))
        return torch.from_numpy(norms).float()

    def _norms_apart(self, small: list[int]) -> Tensor:
        """Return the norms where some gradients are small and others are not."""
        large = sorted({*range(len(self.tensors))} - {*small})
        rest = Gradients([self.tensors[place] for place in large]).norms()
        norms = torch.empty(len(self.tensors), dtype=rest.dtype)
        host = norms.numpy()
        host[large] = rest.numpy()
        quick = Gradients([self.tensors[place] for place in small]).quick_norms()
        host[small] = quick.numpy()
        return norms

    def _norms(self, asked: torch.dtype | None) -> Tensor:
        if not self.tensors:
            return torch.zeros(0)
        norms: Sequence[Tensor] = ()
        placed: list[Tensor] = [torch.empty(0)] * len(self.tensors)
        for (dtype, _), positions in self.groups.items():
            # float16 sums overflow at a norm of 256, bfloat16 sums have 8 bits.
            wide = asked or (torch.float32 if dtype in _HALF else None)
            norms = torch._foreach_norm(self.at(positions), 2.0, dtype=wide)
            if len(self.groups) > 1:
                for position, norm in zip(positions, norms, strict=True):
                    placed[position] = norm
        if len(self.groups) > 1:
            norms = _alike(placed, self.tensors[0].device)
        stacked = torch.stack(tuple(norms))
        return self._widened(stacked) if stacked.is_cpu else stacked

    def _widened(self, norms: Tensor) -> Tensor:
        """Measure again in float64 what float32 squares cannot hold."""
        host = norms.numpy()
        # Two looks that see a NaN too: next to nothing, on the common way out.
        if host[host.argmin()] >= _SMALLEST_EXACT and host[host.argmax()] < np.inf:
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


@lru_cache(maxsize=16)
def _starts(sizes: tuple[int, ...]) -> NDArray[np.intp]:
    """Return where each of some tensors begins once they lie end to end."""
    return np.cumsum((0, *sizes[:-1]), dtype=np.intp)


def _all_plain_and_alike(gradients: Sequence[Tensor]) -> bool:
    """Whether gradients are dense and real, of one dtype and on one device."""
    dtypes = {gradient.dtype for gradient in gradients}
    # An integer per device, since a process has one kind of accelerator: a fraction of
    # what it takes to make a `torch.device`.
    devices = {gradient.get_device() for gradient in gradients}
    layouts = {gradient.layout for gradient in gradients}
    alike = len(dtypes) == len(devices) == 1 and layouts == {torch.strided}
    return alike and not gradients[0].is_complex()


def _alike(norms: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Bring norms of several dtypes and devices to one device and the widest dtype."""
    wide = any(norm.dtype is torch.float64 for norm in norms)
    dtype = torch.float64 if wide else torch.float32
    return [norm.to(device=device, dtype=dtype) for norm in norms]
