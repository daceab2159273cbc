"""Inspect a module of the user's: import it, build it, give it a batch."""

import inspect
import sys
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, seed_everything
from torch import nn

from gradguard.errors import ConfigError
from gradguard.experiments.yaml_text import parse
from gradguard.inspection.layers import Inspection
from gradguard.inspection.passes import by_example, by_trainer

_SEEDS = 2**32  # as many as numpy takes


def inspect_module(path: str, *, arguments: Iterable[str], seed: str) -> Inspection:
    """Inspect a module of the user's on a batch that the module brings.

    That is the first batch of its `train_dataloader`, and the loss of its
    `training_step`; or else its `example_input_array`, and the mean of the output with random signs.

    Args:
        path: "package.module:Class", importable from here.
        arguments: For its constructor, as "depth=30", the right side in YAML.
        seed: Seeds weights and batch, a whole number.

    Raises:
        ConfigError: If there is no such class, it cannot be built, or has no batch.
    """
    if not (seed.isdecimal() and int(seed) < _SEEDS):
        raise ConfigError(f"seed should be a whole number below 2^32, got {seed!r}")
    options = dict(map(_argument, arguments))
    found = _imported(path)
    seed_everything(int(seed), verbose=False)
    module = _constructed(found, path=path, options=options)
    given = getattr(type(module), "train_dataloader", None)
    if given not in (None, LightningModule.train_dataloader):
        return by_trainer(module, None, subject=path, rows="the first batch")
    example = getattr(module, "example_input_array", None)
    if example is None:
        raise ConfigError(
            f"--module {path} has neither train_dataloader() nor example_input_array"
        )
    return by_example(module, example, subject=path)


def require_unused(options: Mapping[str, object]) -> None:
    """Refuse options that only bundled models take.

    Raises:
        ConfigError: If one of the options is given.
    """
    for option, value in options.items():
        if value is not None:
            raise ConfigError(f"{option} is for bundled models, not for --module")


def _argument(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--set expects KEY=VALUE, got {text!r}")
    return name.strip(), parse(
        value, source=f"the value of --set {text!r}", comments=False
    )


def _imported(path: str) -> Any:
    module, colon, name = path.partition(":")
    if not (module and colon and name):
        raise ConfigError(f"--module expects package.module:Class, got {path!r}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # as `python -m` does
    try:
        found = import_module(module)
    except Exception as error:  # the user's file may raise anything
        raise ConfigError(
            f"--module {path} cannot be imported: {_told(error)}"
        ) from None
    if not hasattr(found, name):
        raise ConfigError(f"--module {path}: {module} has no {name!r}")
    return getattr(found, name)


def _constructed(found: Any, *, path: str, options: Mapping[str, Any]) -> nn.Module:
    if not (inspect.isclass(found) and issubclass(found, nn.Module)):
        raise ConfigError(f"--module {path} is not a class of modules")
    try:
        inspect.signature(found).bind(**options)
    except TypeError as error:
        raise ConfigError(
            f"--module {path} takes other arguments: {error}, give --set NAME=VALUE"
        ) from None
    try:
        return found(**options)
    except Exception as error:  # the user's constructor may raise anything
        raise ConfigError(f"--module {path} cannot be built: {_told(error)}") from None


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
