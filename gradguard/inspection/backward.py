"""One forward and one backward pass, observed at every module and every weight."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gradguard.inspection.layers import Inspection, Layer, Recurrence

_MATRIX = 2  # dimensions


class Observer:
    """Sees the outputs of all modules that hold parameters, and their gradients.

    Args:
        model: What is observed.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._squares: dict[str, float] = {}
        self._nonfinite: dict[str, bool] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Observe the passes made until the context ends."""
        handles = [
            module.register_forward_hook(self._at(name))
            for name, module in self.model.named_modules()
            if any(True for _ in module.parameters(recurse=False))
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def inspection(self, *, subject: str, loss: float, loss_of: str) -> Inspection:
        """Return the inspection of the passes observed; there must be gradients."""
        return Inspection(
            subject=subject,
            loss=loss,
            loss_of=loss_of,
            layers=tuple(self._layers()),
            recurrences=tuple(recurrences(self.model)),
            nonfinite_outputs=tuple(
                name for name, bad in self._nonfinite.items() if bad
            ),
        )

    def _at(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            # A recurrent module returns (outputs of all steps, last state).
            first = output[0] if isinstance(output, tuple) and output else output
            if not isinstance(first, Tensor):
                return
            bad = not bool(first.isfinite().all())
            self._nonfinite[name] = self._nonfinite.get(name, False) or bad
            if first.requires_grad:
                first.register_hook(add)  # type: ignore[no-untyped-call]  # torch's

        def add(gradient: Tensor) -> None:
            # A module may be called more than once.
            squares = float(gradient.double().square().sum())
            self._squares[name] = self._squares.get(name, 0.0) + squares

        return hook

    def _layers(self) -> Iterator[Layer]:
        for name, weight in self.model.named_parameters():
            if weight.grad is None or weight.dim() < _MATRIX:
                continue
            # In float64: the square of 1e20 is no float32.
            gradient = weight.grad.to_dense().double()
            squares = self._squares.get(name.rpartition(".")[0], float("nan"))
            yield Layer(
                name=name,
                shape=tuple(weight.shape),
                weight_sd=float(weight.detach().double().std(correction=0)),
                norm_before=float(gradient.norm()),
                mean_abs_before=float(gradient.abs().mean()),
                signal_before=squares**0.5,
            )


def recurrences(model: nn.Module) -> Iterator[Recurrence]:
    """Yield the recurrent weights of torch's RNN, GRU and LSTM and of the bundled SRN.

    Those of torch hold a square block for each gate, one below the other.
    """
    for name, weight in model.named_parameters():
        last = name.rpartition(".")[2]
        if not (last == "U" or last.startswith("weight_hh")):
            continue
        blocks = weight.detach().double().split(weight.shape[1])  # type: ignore[no-untyped-call]  # torch's
        for number, block in enumerate(blocks):
            block_name = f"{name}[{number}]" if len(blocks) > 1 else name
            norm = torch.linalg.matrix_norm(block, ord=2)
            yield Recurrence(block_name, float(norm))
