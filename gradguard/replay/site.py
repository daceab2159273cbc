"""Where in the user's code an operation was called."""

import inspect
import linecache
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from types import CodeType, FrameType
from typing import Literal

import torch
from torch import _compile, nn
from torch._dynamo import eval_frame
from torch.autograd import graph
from torch.utils import _python_dispatch, checkpoint

from gradguard.replay.cause import Line

_TORCH = f"{Path(torch.__file__).parent}{os.sep}"
_HERE = f"{Path(__file__).parent}{os.sep}"
_CHECKPOINT = checkpoint.__file__
_PLUMBING = {_python_dispatch.__file__, _compile.__file__, eval_frame.__file__}
_ENGINE = graph._engine_run_backward.__code__
_APPLY: CodeType = inspect.unwrap(torch.autograd.Function.apply).__code__
_WRAPPERS = re.compile(
    r"(^|\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.|$)"
)

# What operators and their aliases are called in the documentation of torch.
_SPOKEN = {
    "truediv": "div",
    "rtruediv": "div",
    "itruediv": "div",
    "rdiv": "div",
    "idiv": "div",
    "true_divide": "div",
    "divide": "div",
    "multiply": "mul",
    "rmul": "mul",
    "imul": "mul",
    "subtract": "sub",
    "rsub": "sub",
    "isub": "sub",
    "radd": "add",
    "iadd": "add",
    "rpow": "pow",
    "ipow": "pow",
    "rmatmul": "matmul",
    "imatmul": "matmul",
    "absolute": "abs",
    "arccos": "acos",
    "arcsin": "asin",
    "arctan2": "atan2",
    "arccosh": "acosh",
    "arctanh": "atanh",
    "negative": "neg",
    "concat": "cat",
    "concatenate": "cat",
    "clip": "clamp",
}


@dataclass(frozen=True, eq=False)
class Site:
    """One call: of what operation, by which module, and on which line."""

    operation: str
    module: str
    file: str | None
    number: int

    @property
    def line(self) -> Line | None:
        """The user's line, or that of a library where none is the user's."""
        if self.file is None:
            return None
        text = linecache.getline(self.file, self.number).strip()
        return Line(file=self.file, number=self.number, text=text)


def spoken(name: str) -> str:
    """Return what torch's documentation calls an operation.

    Examples:
        >>> spoken("__rdiv__"), spoken("log_"), spoken("linalg_norm"), spoken("mine.default")
        ('div', 'log', 'linalg.norm', 'mine')
    """
    name = name.partition(".")[0].strip("_")
    return _SPOKEN.get(name, re.sub(r"^(linalg|fft|special)_", r"\1.", name))


def readable(path: str) -> str:
    """Return a module's path without the wrappers that compile or shard it."""
    return _WRAPPERS.sub("", path).lstrip(".")


def module_paths(module: nn.Module) -> dict[int, str]:
    """Return the path of every module inside a module, which is itself "", by `id`."""
    return {id(inner): readable(name) for name, inner in module.named_modules()}


def call_site(operation: str, paths: Mapping[int, str]) -> tuple[Site, bool]:
    """Return the site of a call that is being made, and if a custom Function makes it.

    Args:
        operation: What is called, as torch names it; a custom Function's name wins.
        paths: Of the modules that are looked for, as `module_paths` gives them.
    """
    name, module, line, applied = spoken(operation), None, None, False
    fallback = None
    for frame in _frames():
        code = frame.f_code
        if code is _APPLY and not applied and is_users(frame.f_locals["cls"]):
            # From here on outwards: the line that applies it, not one inside of it.
            name, applied = frame.f_locals["cls"].__name__, True
            module = line = fallback = None
        module = _module_of(frame, paths) if module is None else module
        if not code.co_filename.startswith((_TORCH, _HERE, "<frozen")):
            fallback = fallback or frame
            line = line or (None if _is_lightnings(code.co_filename) else frame)
        if line and module is not None:
            break
    shown = line or fallback
    site = Site(
        operation=name,
        module=module or "",
        file=shown.f_code.co_filename if shown else None,
        number=shown.f_lineno if shown else 0,
    )
    return site, applied


def inside_backward() -> Literal["engine", "checkpoint", "python"]:
    """Return who runs what runs now, in the midst of a backward pass.

    It is autograd's engine; or a checkpoint, which runs a piece of the forward pass again;
    or code in Python, such as a hook.
    """
    codes = (frame.f_code for frame in _frames())
    inside = [
        code
        for code in takewhile(lambda code: code is not _ENGINE, codes)
        if not _is_ours(code)
    ]
    if any(code.co_filename == _CHECKPOINT for code in inside):
        return "checkpoint"
    return "python" if inside else "engine"


def _is_ours(code: CodeType) -> bool:
    """Whether a frame is there only because operations are watched."""
    return code.co_filename.startswith(_HERE) or code.co_filename in _PLUMBING


def is_users(function: type) -> bool:
    """Return whether a custom Function is none of those that torch is built with."""
    return not function.__module__.startswith("torch.")


def _is_lightnings(file: str) -> bool:
    """Whether a file is of Lightning, whose demonstrations count as a user's."""
    found = map(sys.modules.get, ("lightning", "pytorch_lightning", "lightning_fabric"))
    homes = {
        f"{Path(package.__file__).parent}{os.sep}"
        for package in found
        if package and package.__file__
    }
    return file.startswith(tuple(homes)) and "demos" not in Path(file).parts


def _frames() -> Iterator[FrameType]:
    """Yield the frames of the step, from the innermost to where it was started."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and not (
        frame.f_code.co_name == "__call__"
        and frame.f_code.co_filename.startswith(_HERE)
    ):
        yield frame
        frame = frame.f_back


def _module_of(frame: FrameType, paths: Mapping[int, str]) -> str | None:
    """Return the path of the module whose method a frame runs; None if it runs none."""
    code = frame.f_code
    if not code.co_argcount:
        return None
    return paths.get(id(frame.f_locals.get(code.co_varnames[0])))
