"""Every Trainer gets a GradGuard when the environment says so, with no line changed.

    GRADGUARD=1 python train.py                 # record
    GRADGUARD="clip=norm:5" python train.py     # clip as well
    GRADGUARD="clip=zclip,clip=norm:5" python train.py
    GRADGUARD="clip_by_name=rnn.*=value:10" python train.py
    GRADGUARD="on_nonfinite=skip" python train.py

Both namespaces of Lightning call `callbacks` for each new Trainer. While the variable is
not set, nothing else is imported here.
"""

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from gradguard.clipping.spec import make, make_by_name, parse, parse_named

if TYPE_CHECKING:
    from gradguard.callback import GradGuard
    from gradguard.clipping.policy import Policy

VARIABLE = "GRADGUARD"

_OFF = ("", "0")
_ON = "1"
_CLIPS = ("clip_norm", "clip_value", "clip", "clip_by_name")
_OPTIONS: dict[str, Callable[[str], Any]] = {
    "clip_norm": lambda text: ("norm", float(text)),
    "clip_value": lambda text: ("value", float(text)),
    "clip": lambda text: _numbered(parse(text)),
    "clip_by_name": lambda text: _numbered(parse_named(text)),
    "every_n_steps": int,
    "max_scalars": int,
    "on_nonfinite": str,
    "max_consecutive_skips": int,
    "dump_dir": str,
    "layer_statistics": {"true": True, "false": False}.__getitem__,
}


def callbacks() -> "list[GradGuard]":
    """Return one GradGuard if the environment variable GRADGUARD asks for it, or none.

    Its value is `1`, or options as `clip=auto:10,every_n_steps=10`, where `clip` and
    `clip_by_name` may stand several times. What clips comes in the order of `--clip-norm`,
    `--clip-value`, `--clip` and `--clip-by-name`. `0` is as good as nothing.

    Raises:
        ValueError: If an option is unknown or its value is none it can have.
    """
    asked = os.environ.get(VARIABLE, "")
    if asked in _OFF:
        return []
    from gradguard.callback import GradGuard  # noqa: PLC0415 (only when asked for)

    given = [] if asked == _ON else list(map(_option, asked.split(",")))
    options = {key: value for key, value in given if key not in _CLIPS}
    return [GradGuard(clip=list(_policies(given)), **options)]


def _policies(given: list[tuple[str, Any]]) -> "Iterator[Policy]":
    """Yield the policies among the options, those by name as one, the last."""
    for place in _CLIPS[:-1]:
        yield from (make(*value) for key, value in given if key == place)
    named: dict[str, list[Policy]] = {}
    for key, value in given:
        if key == _CLIPS[-1]:
            named.setdefault(value[0], []).append(make(*value[1:]))
    if named:
        yield make_by_name(named)


def _option(text: str) -> tuple[str, Any]:
    key, _, value = (part.strip() for part in text.partition("="))
    if key not in _OPTIONS:
        from gradguard.names import nearest  # noqa: PLC0415 (only when asked for)

        near = nearest(key, _OPTIONS)
        raise ValueError(f"{VARIABLE} has no option {key!r}; did you mean {near!r}?")
    try:
        return key, _OPTIONS[key](value)
    except (ValueError, KeyError) as error:
        told = str(error)
        if not told.startswith("expects"):
            kind = "true or false" if isinstance(error, KeyError) else "a number"
            told = f"expects {kind} for {key}, got {value!r}"
        raise ValueError(f"{VARIABLE} {told}") from None


def _numbered(parts: tuple[str, ...]) -> tuple[Any, ...]:
    *names, number = parts
    return (*names, float(number))
