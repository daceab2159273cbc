"""Enough of one bad step on disk to run it again: batch, weights, random state."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from gradguard.gradients.columns import ParameterColumns
from gradguard.guard.culprits import counts


class Dump:
    """Remember how each batch began; save the first that turns bad.

    Args:
        directory: Where to; None saves nothing and remembers nothing.
        module: Whose weights, of this process, are saved along.
        rank: Of this process.
    """

    def __init__(self, directory: Path | None, module: nn.Module, rank: int) -> None:
        self._directory = directory
        self._module = module
        self._rank = rank
        self._batch_idx = 0
        self._batch: Any = None
        self._rng: dict[str, Any] = {}
        self._saved = False
        self._untold: tuple[ParameterColumns, int, Path] | None = None

    def see_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Remember the batch, and the random state its step begins with."""
        self._batch_idx = batch_idx
        if self._directory is not None and not self._saved:
            self._batch = batch
            self._rng = rng_state()

    def save(self, step: int, loss: float | None, columns: ParameterColumns) -> str:
        """Save the first bad step; return where that step is found, in words."""
        where = f"batch {self._batch_idx}"
        if self._directory is None or self._saved:
            return where
        self._saved = True
        file = self._directory / f"bad-step-{step}-rank-{self._rank}.pt"
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            torch.save(self._content(step, loss, columns), file)
            self._untold = columns, step, file.absolute()
        except Exception as error:  # of the disk, or of a batch that cannot be pickled
            return f"{where} (not saved in {file}: {error})"
        finally:
            self._batch, self._rng = None, {}
        return f"{where} (saved in {file})"

    def take_saved(self, columns: ParameterColumns) -> tuple[int, Path] | None:
        """Return the step of these parameters that was saved, and where to; once."""
        if self._untold is None or self._untold[0] is not columns:
            return None
        (_, step, file), self._untold = self._untold, None
        return step, file

    def _content(
        self, step: int, loss: float | None, columns: ParameterColumns
    ) -> dict[str, Any]:
        named = zip(columns.order, columns.names, strict=True)
        return {
            "step": step,
            "batch_idx": self._batch_idx,
            "batch": self._batch,
            "loss": loss,
            "rng": self._rng,
            "weights": self._module.state_dict(),
            "gradients": {
                name: counts(columns.parameters[column].grad)._asdict()
                for column, name in named
            },
        }


def rng_state() -> dict[str, Any]:
    """Return the state of every random generator a step may draw from."""
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": np.random.get_state(),  # noqa: NPY002 (the generator users seed)
        "python": random.getstate(),
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Set every random generator as it was when `rng_state` was called."""
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    np.random.set_state(state["numpy"])  # noqa: NPY002 (the generator users seed)
    random.setstate(state["python"])
