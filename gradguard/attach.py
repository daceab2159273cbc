"""Every Trainer gets a GradGuard when the environment says so, with no line changed.

    GRADGUARD=1 python train.py                 # record
    GRADGUARD="clip_norm=5" python train.py     # clip as well
    GRADGUARD="on_nonfinite=skip" python train.py

Both namespaces of Lightning call `callbacks` for each new Trainer. While the variable is
not set, nothing else is imported here.
"""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradguard.callback import GradGuard

VARIABLE = "GRADGUARD"

_OFF = ("", "0")
_ON = "1"
_OPTIONS: dict[str, Callable[[str], Any]] = {
    "clip_norm": float,
    "clip_value": float,
    "every_n_steps": int,
    "max_scalars": int,
    "on_nonfinite": str,
    "max_consecutive_skips": int,
    "dump_dir": str,
    "layer_statistics": {"true": True, "false": False}.__getitem__,
}


def callbacks() -> "list[GradGuard]":
    """Return one GradGuard if the environment variable GRADGUARD asks for it, or none.

    Its value is `1`, or options as `clip_norm=5,every_n_steps=10`; where both thresholds
    are given, norm comes first. `0` is as good as nothing.

    Raises:
        ValueError: If an option is unknown or its value is none it can have.
    """
    asked = os.environ.get(VARIABLE, "")
    if asked in _OFF:
        return []
    from gradguard.callback import GradGuard  # noqa: PLC0415 (only when asked for)
    from gradguard.clipping.fixed import ClipNorm, ClipValue  # noqa: PLC0415 (likewise

    options = {} if asked == _ON else dict(map(_option, asked.split(",")))
    policies = {"clip_norm": ClipNorm, "clip_value": ClipValue}
    clip = [make(options.pop(key)) for key, make in policies.items() if key in options]
    return [GradGuard(clip=clip, **options)]


def _option(text: str) -> tuple[str, Any]:
    key, _, value = (part.strip() for part in text.partition("="))
    if key not in _OPTIONS:
        from gradguard.names import nearest  # noqa: PLC0415 (only when asked for)

        near = nearest(key, _OPTIONS)
        raise ValueError(f"{VARIABLE} has no option {key!r}; did you mean {near!r}?")
    try:
        return key, _OPTIONS[key](value)
    except (ValueError, KeyError) as error:
        kind = "true or false" if isinstance(error, KeyError) else "a number"
        raise ValueError(
            f"{VARIABLE} expects {kind} for {key}, got {value!r}"
        ) from None
