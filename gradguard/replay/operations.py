"""A mode that records each operation of ATen's whose output is NaN or Inf."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from gradguard.replay.calls import Calls
from gradguard.replay.cause import Direction, Values
from gradguard.replay.cured import Cured
from gradguard.replay.origins import (
    Leaf,
    Operation,
    Origin,
    Producer,
    absorbs,
    followed,
)
from gradguard.replay.outside import Outside
from gradguard.replay.running import Running
from gradguard.replay.site import Site
from gradguard.replay.values import broken, has_nan, values
from gradguard.replay.writers import Writers


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's
    """Record operations whose output is broken, and what broke it.

    Args:
        calls: Says which call of the user's an operation belongs to.
        outside: Names the tensors that no operation of the step made.
        loss_scale: That the loss is multiplied with.
        micro_batch: Position of the first batch.
        cured: What is repaired before anything reads it, and so not recorded.
    """

    def __init__(
        self,
        calls: Calls,
        outside: Outside,
        *,
        loss_scale: float,
        micro_batch: int,
        cured: Cured,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self._calls = calls
        self._outside = outside
        self._loss_scale = loss_scale
        self._micro_batch = micro_batch
        self._cured = cured
        self._resting = False
        self._index = 0
        self._writers = Writers()
        self._forward: dict[Site, Operation] = {}

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
                args, kwargs = tree_map_only(Tensor, self._cured.read, (args, kwargs))
            return self._run(Running(func, args, kwargs))

    def stop(self) -> None:
        """Record nothing from now on."""
        self._resting = True

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
        for _, tensor in running.read:
            position = self._outside.micro_batch(tensor)
            self._micro_batch = self._micro_batch if position is None else position
        site, direction = self._calls.here(running.kernel)
        self._calls.made(site)
        output = running.run()
        written = running.written(output)
        bad = [tensor for tensor in written if broken(tensor)]
        if bad and self._index in self._cured.operations:
            running.cure(output)
            bad = [tensor for tensor in bad if broken(tensor)]
        if bad:
            self._record(running, bad, site, direction)
        else:
            self._see_finite(running, written, site, direction)
        return output

    def _see_finite(
        self,
        running: Running,
        written: Sequence[Tensor],
        site: Site,
        direction: Direction,
    ) -> None:
        """Forget what was broken and is no more, and remember what this hides."""
        if direction == "forward" and any(t.is_floating_point() for t in written):
            for _, tensor in running.read:
                if self._writers.of(tensor) and broken(tensor):
                    self._writers.hidden(tensor, site)
        if running.mutates:
            for tensor in written:
                self._writers.cleaned(tensor)

    def _record(
        self,
        running: Running,
        bad: Sequence[Tensor],
        site: Site,
        direction: Direction,
    ) -> None:
        sources, deliberate = self._blame(running, bad)
        operation = Operation(
            index=self._index,
            site=site,
            direction=direction,
            kernel=running.kernel.strip("_"),
            sources=sources,
            deliberate=deliberate,
            micro_batch=self._micro_batch,
            hidden_by=None,
        )
        if not sources or running.breaks_by_itself():
            operation = self._producer(operation, running, values(bad[0], "output"))
        if direction == "forward":
            self._forward.setdefault(site, operation)
        for tensor in bad:
            self._writers.wrote(tensor, operation)

    def _blame(
        self, running: Running, bad: Sequence[Tensor]
    ) -> tuple[tuple[Origin, ...], bool]:
        """Return what broke a broken output, and whether its Inf is on purpose.

        Inf that the user's code wrote is legal, so that whoever makes NaN of it is to
        blame, and not who wrote it.
        """
        origins = self._origins_of_inputs(running)
        made_nan = any(map(has_nan, bad)) and not any(map(has_nan, running.given))
        if not origins:
            return (), running.was_told_to(write_nan=made_nan)
        if not all(origin.deliberate for origin in origins):
            return origins, False
        if absorbs(running.kernel):
            return (), not made_nan
        found = any(isinstance(origin, Leaf) for origin in followed(origins))
        return () if made_nan and not found else origins, not made_nan

    def _origins_of_inputs(self, running: Running) -> tuple[Origin, ...]:
        found: dict[Origin, None] = {}
        for (_, tensor), given in zip(running.read, running.given, strict=True):
            if broken(given) and self._is_number(tensor):
                running.numbers.append(float(given))
            elif broken(given):
                found.update(dict.fromkeys(self.origins(tensor)))
        return tuple(found)

    def _is_number(self, tensor: Tensor) -> bool:
        """Whether a tensor is what torch made of a number, as in `x[0] = inf`."""
        unseen = not self._writers.of(tensor) and not self._outside.knows(tensor)
        return unseen and tensor.dim() == 0

    def _producer(
        self, operation: Operation, running: Running, output: Values
    ) -> Producer:
        producer = Producer(
            **vars(operation),
            inputs=running.inputs(),
            output=output,
            peak=running.peak(),
            scales=running.multiplies_by(self._loss_scale),
        )
        producer.deliberate = operation.deliberate and not operation.sources
        if operation.direction == "backward":
            producer.hidden_by = self._hidden_by(producer)
        return producer

    def _hidden_by(self, producer: Producer) -> str | None:
        """Return the call that hides in the forward pass what breaks backwards."""
        forward = self._forward.get(producer.site)
        if forward and forward.hidden_by:
            return forward.hidden_by
        unused = producer.output.nan and any(given.zeros for given in producer.inputs)
        return self._calls.picked_by() if unused else None
