"""Mistakes in settings, each told in one sentence with the nearest valid name."""

import inspect
import re
from collections.abc import Iterator
from typing import get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from gradguard.names import nearest

_OF_A_CLIP = re.compile(r"clip\[\d+\]\.(norm|value)")


def sentence(error: ErrorDetails, schema: type[BaseModel]) -> str:
    """Say what is wrong with which field, what it was, and what comes nearest."""
    field = _with_flag(_dotted(error["loc"]))
    if error["type"] == "extra_forbidden":
        near = nearest(field, _names(schema))
        return f"{field} is not a setting, did you mean {near}?"
    if error["type"] == "missing":
        return f"{field} is missing"
    if not field:  # a rule between sections, which says all by itself
        return error["msg"].removeprefix("Value error, ")
    if error["type"] == "invalid_key" or error["loc"][-1] == "[key]":
        where = error["loc"][: -2 if error["loc"][-1] == "[key]" else -1]
        return f"{_dotted(where)} has the key {error['input']!r}; put it in quotes"
    expected = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    expected = re.sub("valid dictionary or instance of .*", "mapping", expected)
    told = f"{field} {expected}, got {error['input']!r}"
    if error["type"] == "string_type" and error["input"] is not None:
        told += "; put it in quotes if it is meant as text"
    if error["type"] == "literal_error":
        allowed = re.findall(r"'([^']*)'", error["ctx"]["expected"])
        near = nearest(str(error["input"]), allowed)
        told += f", did you mean {near!r}?"
    return told


def _with_flag(field: str) -> str:
    """Return a setting with the flag that gives it, if there is one."""
    clip = _OF_A_CLIP.fullmatch(field)
    return f"{field} (--clip-{clip[1]})" if clip else field


def _dotted(location: tuple[str | int, ...]) -> str:
    """Write ("clip", 0, "norm") as clip[0].norm."""
    return "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}" for part in location
    ).removeprefix(".")


def _names(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield every setting as it is written in --set."""
    for name, field in section.model_fields.items():
        inner = (*get_args(field.annotation), field.annotation)[0]
        plain = inspect.isclass(inner) and get_origin(inner) is None
        if plain and issubclass(inner, BaseModel):
            item = "[0]" if get_args(field.annotation) else ""
            yield from _names(inner, f"{prefix}{name}{item}.")
        else:
            yield prefix + name
