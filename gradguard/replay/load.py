"""A file in, a bad step out; what is no dump, or may not be opened, is refused in a sentence."""

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from pickle import UnpicklingError
from types import UnionType
from typing import Any, get_args, get_origin

import numpy as np
import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from gradguard.errors import ConfigError
from gradguard.guard.dump import FORMAT, VERSION
from gradguard.names import named

# What NumPy's arrays are made of in a pickle: numbers in memory, no code.
_ARRAYS: list[Any] = [
    np.ndarray,
    np.dtype,
    *{type(np.dtype(kind)) for kind in "?bhilqBHILQefdgFDG"},
    np.zeros(0).__reduce__()[0],
    np.float64(0).__reduce__()[0],
]


_NOTHING = object()


@dataclass(frozen=True, kw_only=True)
class BadStep:
    """What `gradguard.guard.dump` saved of one step.

    Attributes:
        step: Updates completed before.
        loss: Of its last batch; None if unknown.
        gradients: Of each parameter the numbers of elements that are `nan`, `plus_inf`,
            `minus_inf` and `finite`, and `norm_before`, -1 without a gradient.
        weights: Parameters by name, from before the first batch.
        weights_moved: Whether an update came between the first batch and the weights.
        updates_before: How many updates came between the first batch and the bad one.
        buffers: Buffers by name, from before the first batch.
        attributes: What the module itself held in attributes then.
        modes: Which module was in training mode, by name.
        requires_grad: Which parameter wanted a gradient, by name.
        optimizers: The states of all optimizers.
        optimizer: Which of them made the update, -1 if none.
        batches: Each with `batch`, `batch_idx`, `random_state`, and `changed`, which
            names what the training step has changed in place.
        versions: Of what made the dump, by name.
        module: The class, its hyperparameters, and who optimises.
        trainer: What the Trainer was set to, and where it was.
        autocast: To which `dtype` on which `device`; None without.
        scaler: State of the gradient scaler; empty without.
    """

    step: int
    loss: float | None
    gradients: dict[str, dict[str, float]]
    weights: dict[str, Tensor]
    weights_moved: bool
    updates_before: int
    buffers: dict[str, Tensor]
    attributes: dict[str, Any]
    modes: dict[str, bool]
    requires_grad: dict[str, bool]
    optimizers: list[dict[str, Any]]
    optimizer: int
    batches: list[dict[str, Any]]
    versions: dict[str, str]
    module: dict[str, Any]
    trainer: dict[str, Any]
    autocast: dict[str, str] | None
    scaler: dict[str, Any]

    @property
    def is_finite(self) -> bool:
        """Whether all gradients were: the step was bad because it stood out."""
        return not any(
            kinds["nan"] or kinds["plus_inf"] or kinds["minus_inf"]
            for kinds in self.gradients.values()
        )


def load(file: Path, *, trust: bool = False) -> BadStep:
    """Read a dump onto the CPU.

    Args:
        file: The dump.
        trust: Whether whoever wrote it may run code here: needed where the batch or a
            hyperparameter is an object of a class that is neither torch's nor NumPy's.

    Raises:
        ConfigError: If the file is missing, damaged, no dump, of another version, or
            holds objects that may not, or cannot, be made.
    """
    if not file.is_file():
        kind = "is a directory, not a dump" if file.is_dir() else "does not exist"
        raise ConfigError(
            f"{file} {kind}: expected a file such as bad-step-41-rank-0.pt"
        )
    with safe_globals(_ARRAYS):
        try:
            foreign = get_unsafe_globals_in_checkpoint(file)
            if foreign and not trust:
                raise ConfigError(
                    f"{file} holds objects of {named(sorted(foreign))}, and to make them "
                    "runs code of whoever wrote the file: give --trust (in Python "
                    "trust=True) if that is somebody you trust"
                )
            content = _content(file, weights_only=not foreign)
        except (EOFError, OSError, RuntimeError, UnpicklingError, ValueError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(
                f"{file} is damaged, or no dump of gradguard: it cannot be read"
            ) from None
    return _checked(content, file)


def _content(file: Path, *, weights_only: bool) -> Any:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # where the classes of the user's batches are
    try:
        return torch.load(file, map_location="cpu", weights_only=weights_only)
    except (AttributeError, ImportError) as error:
        raise ConfigError(
            f"{file} holds objects that cannot be made here: {error}"
        ) from None


def _checked(content: Any, file: Path) -> BadStep:
    kind = content.get("format") if isinstance(content, dict) else None
    if kind != FORMAT:
        old = isinstance(content, dict) and {"batch", "rng", "weights"} <= {*content}
        said = (
            "was saved by gradguard 0.1, and lacks" if old else "is no dump, but lacks"
        )
        raise ConfigError(f"{file} {said} what a replay needs")
    if content.get("version") != VERSION:
        raise ConfigError(
            f"{file} is a dump of version {content.get('version')}, and this is gradguard "
            f"for version {VERSION}: use the gradguard that wrote it"
        )
    lacking = [
        field.name
        for field in fields(BadStep)
        if not _fits(content.get(field.name, _NOTHING), field.type)
    ]
    if lacking or not content["batches"]:
        raise ConfigError(
            f"{file} is damaged: it lacks {named(lacking or ['batches'])} of its step"
        )
    return BadStep(**{field.name: content[field.name] for field in fields(BadStep)})


def _fits(value: object, kind: Any) -> bool:
    """Whether a value is of a kind such as `dict[str, float]` or `float | None`, on top."""
    if isinstance(kind, UnionType):
        return any(_fits(value, each) for each in get_args(kind))
    return isinstance(value, get_origin(kind) or kind)
