"""One bad step on disk, with all it takes to run the step again."""

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves, tree_map_only

from gradguard.gradients.columns import ParameterColumns
from gradguard.guard.culprits import counts, norm
from gradguard.guard.window import Window, weights
from gradguard.names import said_bytes

# What tells a dump from other files of torch, and how its content is laid out.
FORMAT = "gradguard bad step"
VERSION = 2

# Batches that a window holds at most, where the module itself says when it ends.
_MOST_BATCHES = 64


class Origin(Protocol):
    """The fit a dump is of."""

    @property
    def rank(self) -> int:
        """Number of this process."""

    @property
    def period(self) -> int | None:
        """Batches between two zeroings of gradients; None where the module decides."""

    @property
    def optimizers(self) -> Sequence[Optimizer]:
        """All optimizers of the fit."""

    def facts(self) -> dict[str, Any]:
        """Return what else a rerun needs, as plain Python."""


class Dump:
    """Remember how each window of batches began; save the first bad one of each kind.

    Until then the batches of a window are kept alive, its buffers are copied as it opens
    and, where one batch is seen to make several updates, weights and optimizers too.

    Args:
        directory: Where to; None saves nothing and remembers nothing.
        module: Whose weights, of this process, are saved along.
        origin: The fit.
        kinds: What a step may be saved for.
    """

    def __init__(
        self,
        directory: Path | None,
        module: nn.Module,
        origin: Origin,
        kinds: Iterable[str],
    ) -> None:
        self._directory = directory
        self._module = module
        self._origin = origin
        self._batch_idx = 0
        self._window = Window(module)
        self._count: Callable[[], int] = lambda: 0
        self._updates = 0  # seen as the window opened
        self._moves = False  # whether one batch makes several updates
        self._left = {*kinds} if directory is not None else set()
        self._untold: list[tuple[ParameterColumns, int, Path]] = []

    def see_batch_start(
        self, batch: Any, batch_idx: int, updates: Callable[[], int]
    ) -> None:
        """Remember the batch, and the random state its step begins with.

        Args:
            batch: As the training step gets it.
            batch_idx: Its index in the epoch.
            updates: Counts the updates seen so far, a bad one from when it is saved on.
        """
        self._batch_idx, self._count = batch_idx, updates
        if not self._left:
            return
        if self._opens(batch_idx):
            optimizers = self._origin.optimizers if self._moves else ()
            self._window.open(is_first=batch_idx == 0, optimizers=optimizers)
        self._window.add(batch, batch_idx)

    def save(
        self, kind: str, step: int, loss: float | None, columns: ParameterColumns
    ) -> str:
        """Save the first step of a kind; return where that step is found, in words."""
        where = f"batch {self._batch_idx}"
        if (
            self._directory is None
            or kind not in self._left
            or not self._window.batches
        ):
            return where
        self._left.remove(kind)
        file = self._directory / f"bad-step-{step}-rank-{self._origin.rank}.pt"
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            write(self._content(step, loss, columns), file)
            self._untold.append((columns, step, file.absolute()))
        except Exception as error:  # of the disk, or of a batch that cannot be pickled
            return f"{where} (not saved in {file}: {error})"
        finally:
            self._window = Window(self._module)
        return f"{where} (saved in {file}; `gradguard replay` runs it again)"

    def _opens(self, batch_idx: int) -> bool:
        """Whether a batch is the first of a window."""
        held, period = len(self._window.batches), self._origin.period
        if period is not None:
            return batch_idx % period == 0 or not held
        new = self._count() - self._updates
        self._moves = self._moves or (held > 0 and new > 1)
        if held and not new and held < _MOST_BATCHES:
            return False
        self._updates += new
        return True

    def take_saved(self, columns: ParameterColumns) -> tuple[int, Path] | None:
        """Return a step of these parameters that was saved, and where to; each once."""
        for place, (whose, step, file) in enumerate(self._untold):
            if whose is columns:
                del self._untold[place]
                return step, file
        return None

    def _content(
        self, step: int, loss: float | None, columns: ParameterColumns
    ) -> dict[str, Any]:
        window, optimizers = self._window, self._origin.optimizers
        states = window.optimizers or [each.state_dict() for each in optimizers]
        before = 0
        if self._origin.period is None:
            before = max(0, self._count() - self._updates - 1)
        return {
            "format": FORMAT,
            "version": VERSION,
            **self._origin.facts(),
            "step": step,
            "loss": loss,
            "gradients": dict(_gradients(columns)),
            "weights": window.weights or weights(self._module),
            "weights_moved": window.weights is None and before > 0,
            "updates_before": before,
            "buffers": window.buffers,
            "attributes": window.attributes,
            "modes": {
                name: module.training for name, module in self._module.named_modules()
            },
            "optimizers": states,
            "optimizer": _place(columns, optimizers),
            "batches": [
                {
                    "batch": tree_map_only(Tensor, _alone, seen.batch),
                    "batch_idx": seen.batch_idx,
                    "random_state": seen.random_state,
                    "changed": seen.changed(),
                }
                for seen in window.batches
            ],
        }


def write(content: dict[str, Any], file: Path) -> None:
    """Write a dump whole or not at all.

    Raises:
        OSError: If it would take more than half of what is free on the disk.
    """
    size, free = _bytes(content), shutil.disk_usage(file.parent).free
    if size > free / 2:
        raise OSError(
            f"its {said_bytes(size)} are more than half of the {said_bytes(free)} "
            "that are free there"
        )
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with unfinished.open("wb") as stream:
            torch.save(content, stream)
            stream.flush()
            os.fsync(stream.fileno())
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


def _bytes(content: dict[str, Any]) -> int:
    """Return how many bytes the tensors of a content take, each memory counted once."""
    storages = {
        storage.data_ptr(): storage.nbytes()
        for leaf in tree_leaves(content)
        if isinstance(leaf, Tensor) and leaf.layout is torch.strided
        for storage in [leaf.untyped_storage()]
    }
    return sum(storages.values())


def _alone(tensor: Tensor) -> Tensor:
    """Return a tensor without the larger one it is a part of, which would be saved too."""
    if tensor.layout is not torch.strided:
        return tensor
    whole = tensor.untyped_storage().nbytes()
    return tensor.clone() if whole > tensor.numel() * tensor.element_size() else tensor


def _gradients(columns: ParameterColumns) -> Any:
    """Yield of each parameter its name, and what kinds of elements its gradient has.

    `norm_before` is the L2 norm as the update found it, before gradguard clips.
    """
    for column, name in zip(columns.order, columns.names, strict=True):
        gradient = columns.parameters[column].grad
        yield name, {**counts(gradient)._asdict(), "norm_before": norm(gradient)}


def _place(columns: ParameterColumns, optimizers: Sequence[Optimizer]) -> int:
    """Return which optimizer holds the parameters, -1 if none of the fit's."""
    held = set(columns.parameters)
    for place, optimizer in enumerate(optimizers):
        if any(p in held for group in optimizer.param_groups for p in group["params"]):
            return place
    return -1
