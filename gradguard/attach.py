"""Every Trainer gets a GradGuard when the environment says so, with no line changed.

    GRADGUARD=1 python train.py                 # record
    GRADGUARD="clip=norm:5" python train.py     # clip as well
    GRADGUARD="clip=zclip,clip=norm:5" python train.py
    GRADGUARD="clip_by_name=rnn.*=value:10" python train.py
    GRADGUARD="on_nonfinite=skip,on_spike=skip" python train.py
    GRADGUARD=off python train.py               # neither

Both namespaces of Lightning call `callbacks` for each new Trainer. While the variable is
not set, nothing else is imported here.
"""

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from gradguard.clipping.spec import make, make_by_name, parse, parse_named
from gradguard.guard import spike
from gradguard.scalars import number, switch

if TYPE_CHECKING:
    from gradguard.callback import GradGuard
    from gradguard.clipping.policy import Policy

VARIABLE = "GRADGUARD"

_CLIPS = ("clip_norm", "clip_value", "clip", "clip_by_name")
_SEVERAL = ("clip", "clip_by_name")
_WORDS = ("on", "off", "true", "false", "yes", "no")


def callbacks() -> "list[GradGuard]":
    """Return one GradGuard if the environment variable GRADGUARD asks for it, or none.

    Its value is `1`, `true`, `yes` or `on`, or options as `clip=auto:10,every_n_steps=10`,
    where `clip` and `clip_by_name` may stand several times, and a value with a comma in
    quotes. What clips comes in the order of `--clip-norm`, `--clip-value`, `--clip` and
    `--clip-by-name`. `0`, `false`, `no` and `off` are as good as nothing.

    Raises:
        ValueError: If an option is unknown, stands twice, or its value is none it can have.
    """
    asked = os.environ.get(VARIABLE, "").strip()
    if not asked or switch(asked) is False:
        return []
    parts = _split(asked)
    off = [part for part in parts if switch(part) is False]
    if off and len(parts) > 1:
        raise ValueError(f"{VARIABLE} says {off[0]} beside options, got {asked!r}")
    if off or not parts:
        return []
    from gradguard.callback import GradGuard  # noqa: PLC0415 (only when asked for)

    given = [_option(part) for part in parts if not switch(part)]
    keys = [key for key, _ in given if key not in _SEVERAL]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"{VARIABLE} gives {key} twice, keep one of them")
    options = {key: value for key, value in given if key not in _CLIPS}
    return [GradGuard(clip=list(_policies(given)), **options)]


def _split(asked: str) -> list[str]:
    """Return what stands between commas, without the quotes around it or its value.

    A file of Docker's `--env-file` hands on quotes that a shell would take away.
    """
    import shlex  # noqa: PLC0415 (only when asked for)

    reader = shlex.shlex(asked, posix=True)
    reader.whitespace, reader.whitespace_split = ",", True
    reader.commenters = reader.escape = ""
    try:
        parts = [part.strip() for part in reader]
    except ValueError:
        raise ValueError(
            f"{VARIABLE} has a quote that does not end, got {asked!r}"
        ) from None
    if len(parts) == 1 and asked[0] in reader.quotes and "," in parts[0]:
        return _split(parts[0])
    return list(filter(None, parts))


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
    key, equals, value = (part.strip() for part in text.partition("="))
    if key not in _OPTIONS:
        from gradguard.names import nearest  # noqa: PLC0415 (only when asked for)

        near = nearest(key.lower(), _OPTIONS if equals else (*_OPTIONS, *_WORDS))
        raise ValueError(f"{VARIABLE} has no option {key!r}; did you mean {near!r}?")
    try:
        return key, _OPTIONS[key](value)
    except TypeError as error:
        told = f"expects {error} for {key}, got {value!r}"
    except ValueError as error:  # of `parse`, whole
        told = str(error)
    raise ValueError(f"{VARIABLE} {told}")


def _numbered(parts: tuple[str, ...]) -> tuple[Any, ...]:
    *names, text = parts
    return (*names, _number(text))


def _number(text: str) -> float:
    found = number(text)
    if found is None:
        raise TypeError("a number")
    return float(found)


def _whole(text: str) -> int:
    found = number(text)
    if not isinstance(found, int):
        raise TypeError("a whole number")
    return found


def _switch(text: str) -> bool:
    found = switch(text)
    if found is None:
        raise TypeError("true or false")
    return found


_OPTIONS: dict[str, Callable[[str], Any]] = {
    "clip_norm": lambda text: ("norm", _number(text)),
    "clip_value": lambda text: ("value", _number(text)),
    "clip": lambda text: _numbered(parse(text)),
    "clip_by_name": lambda text: _numbered(parse_named(text)),
    "every_n_steps": _whole,
    "max_scalars": _whole,
    "on_nonfinite": str,
    "on_spike": spike.parse,
    "max_consecutive_skips": _whole,
    "dump_dir": os.path.expanduser,
    "layer_statistics": _switch,
    "verdict": _switch,
}
