"""A mode that records each operation of ATen's whose output is NaN or Inf."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from gradguard.replay.calls import Calls
from gradguard.replay.origins import Leaf, Operation, Origin, absorbs, followed
from gradguard.replay.outside import Outside
from gradguard.replay.running import Running
from gradguard.replay.site import Site
from gradguard.replay.values import broken, has_nan, place, repaired, values
from gradguard.replay.writers import Writers


class Cured(NamedTuple):
    """What is repaired in a step: outputs of operations, and tensors from before it."""

    operations: frozenset[int]
    places: frozenset[int]

    @classmethod
    def of(cls, origins: Sequence[Origin]) -> "Cured":
        """Return what is repaired if these are."""
        places = {origin.place for origin in origins if isinstance(origin, Leaf)}
        indices = {o.index for o in origins if isinstance(o, Operation)}
        return cls(frozenset(indices), frozenset(places))


NOTHING = Cured(frozenset(), frozenset())


class Operations(TorchDispatchMode):
    """Record operations whose output is broken, and what broke it.

    Args:
        calls: Says which call of the user's an operation belongs to.
        outside: Names the tensors that no operation of the step made.
        loss_scale: That the loss is multiplied with.
        micro_batch: Position of the first batch.
        cured: What is repaired before anything reads it, and so not recorded.
    """

    def __init__(
        self, calls: Calls, outside: Outside, *, loss_scale: float, micro_batch: int, cured: Cured
    ) -> None:
        super().__init__()
        self._resting = False
        self._calls = calls
        self._outside = outside
        self._loss_scale = loss_scale
        self._cured = cured
        self._micro_batch = micro_batch
        self._writers = Writers()
        self._forward: dict[Site, Operation] = {}
        self._index = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operation, and record it if its output is broken."""
        kwargs = kwargs or {}
        if self._resting:
            return func(*args, **kwargs)
        self._index += 1
        with torch._C.DisableTorchFunction():
            if self._cured.places:
                args, kwargs = tree_map_only(Tensor, self._cure, (args, kwargs))
            return self._run(Running(func, args, kwargs))

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Record nothing until the context ends."""
        self._resting, before = True, self._resting
        try:
            yield
        finally:
            self._resting = before

    def origins(self, tensor: Tensor) -> list[Origin]:
        """Return what broke a broken tensor."""
        written = self._writers.of(tensor)
        if written:
            return [*written]
        site, _ = self._calls.here("")
        return [self._outside.leaf(tensor, site, self._micro_batch)]

    def _run(self, running: Running) -> Any:
        self._see_batch(running)
        site, direction = self._calls.here(running.kernel)
        self._calls.made(site)
        output = running.run()
        written = running.written(output)
        bad = [tensor for tensor in written if broken(tensor)]
        if not bad:
            if direction == "forward":
                self._see_hidden(running, written, site)
            for tensor in written if running.mutates else ():
                self._writers.cleaned(tensor)
            return output
        if self._index in self._cured.operations:
            for tensor in bad:
                tensor.copy_(repaired(tensor))
            return output
        sources, deliberate = self._blame(running, bad)
        begins = not sources or running.breaks_by_itself()
        operation = Operation(
            index=self._index,
            site=site,
            direction=direction,
            kernel=running.kernel.strip("_"),
            sources=sources,
            begins=begins,
            deliberate=deliberate,
            micro_batch=self._micro_batch,
        )
        if begins:
            operation.inputs = running.inputs()
            operation.output = values(bad[0], "output")
            operation.peak = None if deliberate else running.peak()
            operation.scales = running.multiplies_by(self._loss_scale)
        if direction == "forward":
            self._forward.setdefault(site, operation)
        elif begins:
            operation.hidden_by = self._hidden_by(operation)
        for tensor in bad:
            self._writers.wrote(tensor, operation)
        return output

    def _cure(self, tensor: Tensor) -> Tensor:
        """Return a repaired copy of a tensor that is to be cured, or the tensor."""
        ill = place(tensor) in self._cured.places and broken(tensor)
        return repaired(tensor) if ill else tensor

    def _see_batch(self, running: Running) -> None:
        """Learn which micro-batch is under way from what an operation reads."""
        for _, tensor in running.read:
            position = self._outside.micro_batch(tensor)
            self._micro_batch = self._micro_batch if position is None else position

    def _see_hidden(self, running: Running, written: list[Tensor], site: Site) -> None:
        """Remember whose broken output an operation made something finite of."""
        if any(tensor.is_floating_point() for tensor in written):
            for _, tensor in running.read:
                if self._writers.of(tensor) and broken(tensor):
                    self._writers.hidden(tensor, site)

    def _hidden_by(self, operation: Operation) -> str | None:
        """Return the call that hides in the forward pass what breaks backwards."""
        forward = self._forward.get(operation.site)
        if forward and forward.hidden_by:
            return forward.hidden_by
        made_nan_of_zero = operation.output and operation.output.nan
        zeros = any(given.zeros for given in operation.inputs)
        return self._calls.picked_by() if made_nan_of_zero and zeros else None

    def _blame(
        self, running: Running, bad: list[Tensor]
    ) -> tuple[tuple[Origin, ...], bool]:
        """Return what broke an output, and whether the user's code wrote it on purpose.

        Inf on purpose is legal, so that whoever makes NaN of it is to blame.
        """
        origins = self._origins_of_inputs(running)
        made_nan = any(map(has_nan, bad)) and not any(map(has_nan, running.given))
        if not origins:
            return (), running.writes_on_purpose and not (
                made_nan and not running.writes_nan
            )
        if not all(origin.deliberate for origin in origins):
            return origins, False
        if absorbs(running.kernel):
            return (), not made_nan
        given = any(isinstance(origin, Leaf) for origin in followed(origins))
        if made_nan and not given:
            return (), False
        return origins, not made_nan

    def _origins_of_inputs(self, running: Running) -> tuple[Origin, ...]:
        found: dict[Origin, None] = {}
        for (_, tensor), given in zip(running.read, running.given, strict=True):
            if broken(given):
                found.update(dict.fromkeys(self.origins(tensor)))
        return tuple(found)
