"""What a tensor holds: whether it is broken, and its range."""

import torch
from torch import Tensor

from gradguard.gradients.sharding import local
from gradguard.replay.cause import Values

_MOST_ROWS = 10
_SINGLE = 4  # bytes of float32


def broken(tensor: Tensor) -> bool:
    """Return whether a tensor holds a NaN or an Inf; syncs."""
    numbers = _numbers(tensor)
    if numbers is None:
        return False
    # One pass, and almost always enough: a finite sum is one of finite numbers.
    wide = torch.float32 if numbers.itemsize < _SINGLE else None
    if bool(numbers.sum(dtype=wide).isfinite()):
        return False
    return not bool(numbers.isfinite().all())


def has_nan(tensor: Tensor) -> bool:
    """Return whether a tensor holds a NaN; syncs."""
    numbers = _numbers(tensor)
    return numbers is not None and bool(numbers.isnan().any())


def repaired(tensor: Tensor) -> Tensor:
    """Return a copy of a tensor with 0.5 in place of NaN and Inf.

    0.5 is where logarithms, roots, quotients and inverse functions are all defined.
    """
    copy = tensor.detach().clone()
    repair(copy, where=copy)
    return copy


def repair(tensor: Tensor, *, where: Tensor) -> None:
    """Write 0.5 into a tensor wherever one of its kind holds NaN or Inf."""
    numbers = _dense(tensor)
    numbers.copy_(numbers.where(_dense(where).isfinite(), 0.5))


def values(tensor: Tensor, role: str) -> Values:
    """Return what a tensor holds; syncs."""
    numbers = _numbers(tensor)
    if numbers is None:  # whole numbers: exact in float64 up to 2^53
        numbers = _dense(local(tensor.detach())).double()
    finite = numbers[numbers.isfinite()]
    return Values(
        role=role,
        dtype=str(tensor.dtype).removeprefix("torch."),
        shape=tuple(tensor.shape),
        elements=tensor.numel(),
        zeros=int((numbers == 0).sum()),
        nan=int(numbers.isnan().sum()),
        plus_inf=int(numbers.isposinf().sum()),
        minus_inf=int(numbers.isneginf().sum()),
        smallest=float(finite.min()) if finite.numel() else None,
        largest=float(finite.max()) if finite.numel() else None,
    )


def broken_rows(tensor: Tensor) -> tuple[int, ...]:
    """Return the first indices along the first dimension that hold a NaN or an Inf."""
    numbers = _numbers(tensor)
    if numbers is None or tensor.dim() == 0 or tensor.layout is not torch.strided:
        return ()
    bad = ~numbers.isfinite()
    rows = bad.flatten(1).any(dim=1) if bad.dim() > 1 else bad
    return tuple(rows.nonzero().flatten()[:_MOST_ROWS].tolist())


def has_memory(tensor: Tensor) -> bool:
    """Return whether a tensor's numbers are in memory that torch lets us look at."""
    if tensor.layout is torch.strided:
        return not (tensor.is_nested or tensor._is_zerotensor())
    return not tensor.is_mkldnn


def memory(tensor: Tensor) -> torch.UntypedStorage:
    """Return the memory that holds the numbers of a tensor."""
    return _dense(local(tensor)).untyped_storage()


def place(tensor: Tensor) -> int:
    """Return what is equal for tensors that share memory, and for no others alive."""
    number: int = memory(tensor)._cdata
    return number


def _numbers(tensor: Tensor) -> Tensor | None:
    """Return the real numbers of a tensor, flat or not; None if they are whole."""
    tensor = local(tensor.detach())
    if tensor.is_meta or not (tensor.is_floating_point() or tensor.is_complex()):
        return None
    if tensor._is_zerotensor():  # autograd's zeros without memory: kernels would crash
        return None
    tensor = _dense(tensor)
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    # What float8 can do differs from release to release.
    return tensor.float() if tensor.element_size() == 1 else tensor


def _dense(tensor: Tensor) -> Tensor:
    """Return the tensor that holds the numbers of a sparse one, or any other itself."""
    if tensor.layout is torch.strided:
        return tensor
    return tensor._values() if tensor.layout is torch.sparse_coo else tensor.values()
