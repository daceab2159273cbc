"""What a clipping policy is, and how several are applied in order."""

import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from fnmatch import fnmatchcase
from functools import lru_cache
from numbers import Real
from typing import Any, Protocol, get_origin, runtime_checkable

import torch
from torch import Tensor

from gradguard.gradients.norms import Gradients
from gradguard.names import by_likeness, named

State = dict[str, Any]
"""What policies have learned: nested dicts of tensors and numbers."""

# A key of `State` as 0.1 wrote it: the policy's place, and its class.
_OLD_KEY = re.compile(r"(\d+)\.(\w+)")

_MAX_NAMED = 3


class Policy(Protocol):
    """What every clipping policy does; `HasThresholds` and `HasPatterns` are optional.

    A policy holds settings only, so one may serve several optimizers. What it learns it
    keeps in `state`, which is saved with checkpoints.
    """

    def clip(self, gradients: Gradients, norms: Tensor, state: State) -> Tensor:
        """Clip the gradients in place and return their norms after.

        Args:
            gradients: `n` gradients.
            norms: Their L2 norms as they are now, `[n]`.
            state: What the policy kept here at the last step, empty at the first. Of a
                policy without `thresholds`, what is kept as "threshold", a number or a
                0-d tensor, is logged.

        Returns:
            Their L2 norms once clipped, `[n]`.
        """
        ...


@runtime_checkable
class HasThresholds(Protocol):
    """A policy whose thresholds in force are logged."""

    def thresholds(self, state: State) -> Mapping[str, float | Tensor]:
        """Return the thresholds in force by what tells them apart, "" if there is one.

        Args:
            state: What `clip` has kept, empty before the first step.

        Returns:
            Numbers or 0-d tensors; tensors stay on their device until they are written.
        """
        ...


@runtime_checkable
class HasPatterns(Protocol):
    """A policy that chooses parameters by patterns of their names."""

    def check(self, names: Sequence[str]) -> None:
        """Do nothing if each pattern is given at least one of these parameters.

        Raises:
            ValueError: If one is not, naming the parameters that come nearest.
        """
        ...


Clip = Policy | Iterable[Policy] | None
"""What callers may ask for: no policy, one, or several applied in the order given."""


def in_order(clip: Clip) -> tuple[Policy, ...]:
    """Return the policies as a sequence.

    Raises:
        TypeError: If something in it is not a policy.
    """
    given: Any = unwrapped(clip)
    if given is None:
        return ()
    several = isinstance(given, Iterable) and not isinstance(given, Mapping | str)
    policies = tuple(given) if several else (given,)
    for policy in policies:
        if not callable(getattr(policy, "clip", None)):
            raise TypeError(
                f"clip must be a policy such as ClipNorm(5.0), or a sequence of them, "
                f"got {policy!r}"
            )
    return policies


def unwrapped(value: Any) -> Any:
    """Return the lists, mappings and policies of which Hydra made an OmegaConf config.

    What is no such config is returned as it is.
    """
    # Where it is not imported, or another thread is still at that, there are none.
    configs: Any = getattr(sys.modules.get("omegaconf"), "OmegaConf", None)
    if configs is not None and configs.is_config(value):
        return configs.to_object(value)
    return value


def in_words(policies: Sequence[Policy]) -> str:
    """Return the policies as one would write them in code, "" for none."""
    return ", ".join(map(repr, policies))


def apply_to(
    norms: Tensor, policies: Sequence[Policy], gradients: Gradients, state: State
) -> Tensor:
    """Apply the policies in order, in place; return the norms after, `[n]`.

    Args:
        norms: L2 norms of the gradients as they came, `[n]`.
        policies: The first sees the gradients as they came, the next what it left.
        gradients: `n` gradients; sparse ones coalesced.
        state: What the policies have learned so far; changed in place.
    """
    for key, policy in zip(_keys(policies), policies, strict=True):
        if key not in state:
            _rename_old_keys(state)
        norms = policy.clip(gradients, norms, state.setdefault(key, {}))
    return norms


def thresholds(
    policies: Sequence[Policy], state: State
) -> Iterator[tuple[str, float | Tensor]]:
    """Yield each threshold in force by what tells it apart, "" if there is only one."""
    several = len(policies) > 1
    for key, policy in zip(_keys(policies), policies, strict=True):
        own = state.get(key, {})
        found: Mapping[str, float | Tensor]
        if isinstance(policy, HasThresholds):
            found = policy.thresholds(own)
        else:
            found = {"": own["threshold"]} if "threshold" in own else {}
        for which, value in found.items():
            yield "/".join(filter(None, (key * several, which))), value


def check(policies: Iterable[Policy], names: Sequence[str]) -> None:
    """Do nothing if every pattern in the policies matches some of the names.

    Raises:
        ValueError: If one does not, naming the parameters that come nearest.
    """
    for policy in policies:
        if isinstance(policy, HasPatterns):
            policy.check(names)


def unmatched(pattern: str, names: Sequence[str]) -> str:
    """Say that a pattern is of no use, and what may have been meant."""
    taken = [name for name in names if fnmatchcase(name, pattern)]
    if taken:
        return (
            f"pattern {pattern!r} matches only parameters that earlier patterns take "
            f"({named(taken)}): put it before them"
        )
    near = by_likeness(pattern, names)[:_MAX_NAMED]
    return f"pattern {pattern!r} matches no parameter; the nearest: {named(near)}"


def _keys(policies: Sequence[Policy]) -> tuple[str, ...]:
    """Return where each policy keeps its state: "0.ZClip", for the second "1.ZClip".

    Not its place: a policy put in front takes nothing from those behind it.
    """
    return _counted(tuple(type(policy).__name__ for policy in policies))


@lru_cache  # asked for at every step
def _counted(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(
        f"{names[:place].count(name)}.{name}" for place, name in enumerate(names)
    )


def _rename_old_keys(state: State) -> None:
    """Move what a checkpoint of 0.1 filed by place, as "1.ZClip", to "0.ZClip"."""
    old = [match for key in state if (match := _OLD_KEY.fullmatch(key))]
    old.sort(key=lambda match: int(match[1]))
    found = [(match[2], state.pop(match[0])) for match in old]
    keys = _counted(tuple(name for name, _ in found))
    state |= {key: own for key, (_, own) in zip(keys, found, strict=True)}


def scale(gradients: Gradients, norms: Tensor, coefficient: Tensor) -> Tensor:
    """Multiply gradients in place by one coefficient or one each; return their norms.

    Args:
        gradients: `n` gradients.
        norms: Their L2 norms, `[n]`.
        coefficient: 0-d or `[n]`, 0 to 1.
    """
    if coefficient.is_cpu and _all_one(coefficient):
        return norms
    return multiplied(gradients, norms, coefficient)


def multiplied(gradients: Gradients, norms: Tensor, coefficient: Tensor) -> Tensor:
    """Do as `scale` where some coefficient is known to be below 1."""
    for (_, device), positions in gradients.groups.items():
        here = coefficient.to(device)
        if here.ndim:
            units = here.unbind()
            each = [units[position] for position in positions]
            torch._foreach_mul_(gradients.at(positions), each)
        else:
            torch._foreach_mul_(gradients.at(positions), here)
    if gradients.any_half:
        return gradients.norms()  # every product was rounded to half precision
    return norms * coefficient


def _all_one(coefficient: Tensor) -> bool:
    host = coefficient.numpy()
    # A reduction costs ten times as much as a look at the one number there mostly is.
    return bool((host == 1.0).all()) if host.ndim else float(host) == 1.0


def keep_plain(policy: Any) -> None:
    """Turn each field of a frozen policy into Python's own bool, int, float or tuple of str.

    A policy is then equal, pickled and written the same, whether its numbers came from
    Python, NumPy, torch or a config.

    Raises:
        ValueError: If one is a text where a number belongs, or the like.
    """
    for field in fields(policy):
        plain = _PLAIN.get(get_origin(field.type) or field.type)
        value = unwrapped(getattr(policy, field.name))
        if plain is None:  # a field of somebody's own subclass
            continue
        try:
            object.__setattr__(policy, field.name, plain(value))
        except TypeError as error:
            expected = str(error)
            raise ValueError(
                f"{field.name} must be {expected}, got {value!r}"
            ) from None


def _float(value: Any) -> float:
    number = _item(value)
    if isinstance(number, bool) or not isinstance(number, int | Real):
        raise TypeError("a number")
    return number if isinstance(number, int) else float(number)


def _int(value: Any) -> int:
    number = _float(value)
    if number != number // 1:
        raise TypeError("a whole number")
    return int(number)


def _bool(value: Any) -> bool:
    found = _item(value)
    if not isinstance(found, int):
        raise TypeError("True or False")
    return bool(found)


def _texts(value: Any) -> tuple[str, ...]:
    several = isinstance(value, Iterable) and not isinstance(value, str)
    if not (several and all(isinstance(text, str) for text in value)):
        raise TypeError("a sequence of patterns such as ('head.*',)")
    return tuple(map(str, value))


def _item(value: Any) -> Any:
    """Return the number in a scalar of NumPy or torch, anything else as it is."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


# By the type of a field, what makes it plain.
_PLAIN: dict[Any, Callable[[Any], Any]] = {
    float: _float,
    int: _int,
    bool: _bool,
    tuple: _texts,
}


def require_positive(field: str, value: float) -> None:
    """Do nothing if the value is a positive finite number.

    Raises:
        ValueError: If it is not.
    """
    if not 0 < value < math.inf:
        raise ValueError(f"{field} must be a positive number, got {value!r}")
