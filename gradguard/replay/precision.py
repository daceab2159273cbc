"""Whether the same step is finite in wider numbers: are values at fault, or rounding."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from gradguard.names import named
from gradguard.replay.batch import changed
from gradguard.replay.cause import Precision, Verdict
from gradguard.replay.rerun import Rerun, is_broken


def precision(rerun: Rerun) -> Precision:
    """Return whether a step that breaks is finite in float32 and in float64.

    Weights, buffers and batches are widened, whole numbers are not, and what the step
    itself casts to narrower numbers stays wide, under autocast too.
    """
    single, double = _Widened(torch.float32), _Widened(torch.float64)
    float32, float64 = _is_finite(rerun, single), _is_finite(rerun, double)
    rerun.restore()
    if float64 is None:
        verdict: Verdict = "unknown"
        sentence = f"it cannot be run in float64: {double.error}"
    elif not float64:
        verdict = "values"
        sentence = "it breaks in float64 as well: its values are at fault"
    else:
        verdict, wide = "rounding", "float32" if float32 else "float64"
        narrow = named(sorted(single.narrow) or ["float32"]) if float32 else "float32"
        sentence = f"it is finite in {wide}: range or rounding of {narrow} is at fault"
    return Precision(
        verdict=verdict, float32=float32, float64=float64, sentence=sentence
    )


def _is_finite(rerun: Rerun, mode: "_Widened") -> bool | None:
    """Return how the step ends in one dtype; None if it cannot be run in it."""
    batches = {at: changed(batch, mode.widened) for at, batch in rerun.batches.items()}
    try:
        return not is_broken(rerun(batches, under=mode, dtype=mode.dtype))
    except Exception as error:  # of the user's code, which may ask for its dtype
        mode.error = f"{type(error).__name__}: {error}"
        return None


class _Widened(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's
    """Every floating number below a dtype is of that dtype instead.

    Attributes:
        narrow: What was widened.
        error: What the step raised.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
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
        args, kwargs = tree_map(self.widened, (args, kwargs or {}))
        return func(*args, **kwargs)

    def widened(self, value: Any) -> Any:
        """Return a narrower tensor or dtype widened, and anything else as it is."""
        if isinstance(value, torch.dtype) and self._is_narrow(value):
            return self.dtype
        if isinstance(value, Tensor) and self._is_narrow(value.dtype):
            return value.to(self.dtype)
        return value

    def _is_narrow(self, dtype: torch.dtype) -> bool:
        is_narrow = dtype.is_floating_point and dtype.itemsize < self.dtype.itemsize
        if is_narrow:
            self.narrow.add(str(dtype).removeprefix("torch."))
        return is_narrow
