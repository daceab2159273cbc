"""Whether the same step is finite in wider numbers: are values at fault, or rounding."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from gradguard.names import named
from gradguard.replay.batch import changed
from gradguard.replay.cause import Precision
from gradguard.replay.rerun import Rerun, is_broken


def precision(rerun: Rerun) -> Precision:
    """Return whether a step that breaks is finite in float32 and in float64.

    Weights, buffers and batches are cast, whole numbers are not, and what the step
    itself casts to narrower numbers stays wide, under autocast too.
    """
    single, double = _Widened(torch.float32), _Widened(torch.float64)
    float32, float64 = _is_finite(rerun, single), _is_finite(rerun, double)
    rerun.restore()
    if float64 is None:
        verdict, sentence = "unknown", f"it cannot be run in float64: {double.error}"
    elif not float64:
        verdict = "values"
        sentence = "it breaks in float64 as well: its values are at fault"
    else:
        verdict, wide = "rounding", "float32" if float32 else "float64"
        narrow = named(sorted(single.narrow)) if float32 else "float32"
        sentence = f"it is finite in {wide}: range or rounding of {narrow} is at fault"
    return Precision(
        verdict=verdict, float32=float32, float64=float64, sentence=sentence
    )


def _is_finite(rerun: Rerun, mode: "_Widened") -> bool | None:
    """Return how the step ends in one dtype; None if it cannot be run in it."""
    batches = {at: changed(batch, mode.cast) for at, batch in rerun.batches.items()}
    for tensor in (*rerun.module.parameters(), *rerun.module.buffers()):
        mode.note(tensor.dtype)
    try:
        return not is_broken(rerun(batches, under=mode, dtype=mode.dtype))
    except Exception as error:  # of the user's code, which may ask for its dtype
        mode.error = f"{type(error).__name__}: {error}"
        return None


class _Widened(TorchDispatchMode):
    """Every floating number below a dtype is of that dtype instead.

    Attributes:
        narrow: What was widened.
        error: What the step raised.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.narrow: set[str] = set()
        self.error = ""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operation in the dtype."""
        # An operation that writes into its arguments must be given these and no others.
        if func._schema.is_mutable or func.overloadpacket is torch.ops.aten.view:
            return func(*args, **(kwargs or {}))
        args, kwargs = tree_map(self._widened, (args, kwargs or {}))
        return func(*args, **kwargs)

    def cast(self, tensor: Tensor) -> Tensor:
        """Return a floating tensor in the dtype, and any other as it is."""
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

    def note(self, dtype: torch.dtype) -> bool:
        """Return whether a dtype is to be widened, and remember it if so."""
        is_narrow = dtype.is_floating_point and dtype.itemsize < self.dtype.itemsize
        if is_narrow:
            self.narrow.add(str(dtype).removeprefix("torch."))
        return is_narrow

    def _widened(self, value: Any) -> Any:
        if isinstance(value, torch.dtype) and self.note(value):
            return self.dtype
        if isinstance(value, Tensor) and self.note(value.dtype):
            return value.to(self.dtype)
        return value
