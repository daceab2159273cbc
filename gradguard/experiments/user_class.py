"""A class of the user's by its path: import it, make an object of it, and its Lightning."""

import inspect
import sys
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from gradguard.errors import ConfigError
from gradguard.experiments.yaml_text import parse


def imported(path: str, *, source: str = "--module") -> Any:
    """Return what "package.module:Class" names, importable from here.

    Args:
        path: The path.
        source: Who names it, for the error.

    Raises:
        ConfigError: If there is no such thing, or its module raises.
    """
    module, colon, name = path.partition(":")
    if not (module and colon and name):
        raise ConfigError(f"{source} expects package.module:Class, got {path!r}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # as `python -m` does
    try:
        found = import_module(module)
    except Exception as error:  # the user's file may raise anything
        raise ConfigError(
            f"{source} {path} cannot be imported: {told(error)}"
        ) from None
    for part in name.split("."):
        if not hasattr(found, part):
            raise ConfigError(f"{source} {path}: {module} has no {name!r}")
        found = getattr(found, part)
    return found


def options_of(arguments: Iterable[str]) -> dict[str, Any]:
    """Return what "depth=30" and the like stand for, the right sides in YAML.

    Raises:
        ConfigError: If one is not of that form.
    """
    return dict(map(_option, arguments))


def constructed(
    found: Any, *, path: str, options: Mapping[str, Any], source: str = "--module"
) -> Any:
    """Return a module of a class that is called with the options.

    Raises:
        ConfigError: If it is no class of modules, takes other arguments, or raises.
    """
    if not (inspect.isclass(found) and issubclass(found, nn.Module)):
        raise ConfigError(f"{source} {path} is not a class of modules")
    try:
        inspect.signature(found).bind(**options)
    except TypeError as error:
        raise ConfigError(
            f"{source} {path} takes other arguments: {error}, give --set NAME=VALUE"
        ) from None
    try:
        return found(**options)
    except Exception as error:  # the user's constructor may raise anything
        raise ConfigError(f"{source} {path} cannot be built: {told(error)}") from None


def lightning_of(module: object) -> str:
    """Return the name of the Lightning a module is of: a Trainer of another refuses it."""
    parents = {parent.__module__.partition(".")[0] for parent in type(module).__mro__}
    foreign = "pytorch_lightning" in parents
    return "pytorch_lightning" if foreign else "lightning.pytorch"


def told(error: Exception) -> str:
    """Return an error on one line, its class first."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--set expects KEY=VALUE, got {text!r}")
    return name.strip(), parse(
        value, source=f"the value of --set {text!r}", comments=False
    )
