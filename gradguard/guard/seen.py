"""What a gate decides by: two totals and a loss, the largest of all processes."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, distributed
from torch.optim import Optimizer

# Norms up to which numbers are faster than a kernel.
_SHORT = 64


def seen_on_host(
    optimizer: Optimizer,
    loss: Tensor | float | None,
    norms: Sequence[Tensor],
    device: torch.device,
) -> list[float]:
    """Return what `seen` does, as numbers; syncs."""
    if device.type != "cpu" or _in_company():
        return seen(optimizer, loss, norms, device).tolist()
    found_inf: Tensor | None = getattr(optimizer, "found_inf", None)
    if (found_inf is not None and found_inf.item()) or not norms:
        return [0.0, 0.0, 0.0]
    # A fifth of what the kernels take that do the same.
    before, now = norms
    totals = [_total(before)] * 2 if now is before else [_total(before), _total(now)]
    return [*totals, math.nan if loss is None else float(loss)]


def seen(
    optimizer: Optimizer,
    loss: Tensor | float | None,
    norms: Sequence[Tensor],
    device: torch.device,
) -> Tensor:
    """Return the totals before clipping and now, and the loss, `[3]`, alike on all processes.

    In float64, where the device has it: squares of finite norms do not overflow. Not
    finite where that of some process is not; a loss also where one does not know it. All
    are 0 where a gradient scaler is going to skip the update by itself.

    Args:
        optimizer: Whose update.
        loss: Of this process; None if it is not known.
        norms: Norms before anybody clipped, and as they are now, `[P]` each, negative
            where there is none; empty where this process has no gradients.
        device: Where the optimizer's parameters are.
    """
    dtype = torch.float32 if device.type == "mps" else torch.float64
    totals = [
        torch.linalg.vector_norm(norm.clamp_min(0), dtype=dtype) for norm in norms
    ]
    if isinstance(loss, Tensor):
        loss = loss.detach().reshape(())
    each = [*(totals or [0.0, 0.0]), math.nan if loss is None else loss]
    values = torch.stack(
        [torch.as_tensor(value, dtype=dtype, device=device) for value in each]
    )
    found_inf: Tensor | None = getattr(optimizer, "found_inf", None)
    if found_inf is not None:
        values = torch.where(found_inf.to(device) > 0, 0.0, values)
    if _in_company():
        # NaN has no place in an order.
        values = values.nan_to_num(nan=math.inf, posinf=math.inf)
        distributed.all_reduce(values, distributed.ReduceOp.MAX)
    return values


def _total(norms: Tensor) -> float:
    """Return the total of norms on the host, which no square overflows."""
    if len(norms) > _SHORT:
        return float(torch.linalg.vector_norm(norms.clamp_min(0), dtype=torch.float64))
    return math.hypot(*[norm for norm in norms.tolist() if not norm < 0])


def _in_company() -> bool:
    return distributed.is_available() and distributed.is_initialized()
