"""Whether gradients are again what they were at a bad step."""

from torch import nn

from gradguard.guard.culprits import Counts, counts, norm
from gradguard.names import unwrapped
from gradguard.replay.load import BadStep

# How far the norm of a finite gradient may be off: other kernels add up in another order.
_TOLERANCE = 0.01


def differences(bad: BadStep, module: nn.Module) -> list[str]:
    """Name the parameters whose gradients are not of the kinds they were, and how.

    Kinds are finite, NaN, +Inf and -Inf; of a step whose gradients were all finite, a
    gradient differs whose L2 norm is off by more than 1 % of the largest.
    """
    now = {unwrapped(name): p.grad for name, p in module.named_parameters()}
    largest = max((row["norm_before"] for row in bad.gradients.values()), default=0)
    found = []
    for name, row in bad.gradients.items():
        if name not in now:
            continue
        then, again = _kinds(row), counts(now[name])
        if list(map(bool, then)) != list(map(bool, again)):
            found.append(f"{name} was {_said(then)} and is {_said(again)}")
        elif bad.is_finite and then.finite:
            was, is_ = row["norm_before"], norm(now[name])
            if abs(is_ - was) > _TOLERANCE * largest:
                found.append(f"{name} had norm {was:.3g} and has {is_:.3g}")
    return found


def _kinds(row: dict[str, float]) -> Counts:
    return Counts(*(int(row[kind]) for kind in Counts._fields))


def _said(kinds: Counts) -> str:
    if not any(kinds):
        return "without a gradient"
    return str(kinds) if any(kinds[:3]) else "finite"
