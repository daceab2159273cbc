"""What made a tensor NaN or Inf: operations and tensors, linked back to where it began."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gradguard.replay.cause import Direction, Kind, Values
from gradguard.replay.site import Site

# Operations for which -Inf says "not this one": they give finite numbers unless a whole
# row says so, and then it is they who broke.
_ABSORBERS = {
    "_log_softmax",
    "_safe_softmax",
    "_softmax",
    "amax",
    "logcumsumexp",
    "logsumexp",
    "max",
    "special_logsumexp",
}


def absorbs(kernel: str) -> bool:
    """Return whether -Inf is a legal input of an operation of ATen's."""
    return kernel in _ABSORBERS or "scaled_dot_product" in kernel


@dataclass(frozen=True, eq=False, kw_only=True)
class Leaf:
    """A tensor that was broken before the step.

    Attributes:
        site: The call that used it first.
        deliberate: Whether it holds no more than -Inf, as masks do.
        place: In memory, as `values.place` gives it.
        index: Before that of every operation.
    """

    kind: Kind
    name: str
    module: str
    site: Site
    output: Values
    rows: tuple[int, ...]
    micro_batch: int
    deliberate: bool
    place: int
    index: int = -1


@dataclass(eq=False, kw_only=True)
class Operation:
    """An operation of ATen's whose output is broken.

    Attributes:
        index: Its place in the order of execution.
        site: The call, in the forward pass, that it belongs to.
        direction: Of the pass that ran it.
        kernel: Its name in ATen.
        sources: What broke those of its inputs that are broken, and are to blame.
        deliberate: Whether its Inf was written by the user's code, not computed.
        hidden_by: The call that first made something finite of its broken output.
    """

    index: int
    site: Site
    direction: Direction
    kernel: str
    sources: tuple["Origin", ...]
    deliberate: bool
    micro_batch: int
    hidden_by: str | None

    def hide(self, by: str) -> None:
        """Remember who hides this output, and so whatever it came from."""
        for origin in followed([self]):
            if isinstance(origin, Operation) and origin.hidden_by is None:
                origin.hidden_by = by


@dataclass(eq=False, kw_only=True)
class Producer(Operation):
    """An operation that breaks with finite or legal inputs as well.

    Attributes:
        inputs: What it read.
        output: What it wrote.
        peak: Largest magnitude it would have written in float64, if that is finite.
        scales: Whether it multiplies by the loss scale.
    """

    inputs: tuple[Values, ...]
    output: Values
    peak: float | None
    scales: bool


Origin = Operation | Leaf
Beginning = Producer | Leaf


def followed(origins: Iterable[Origin]) -> Iterator[Origin]:
    """Yield the origins and everything they came from, each once."""
    seen: set[Origin] = set()
    left = list(origins)
    while left:
        origin = left.pop()
        if origin in seen:
            continue
        seen.add(origin)
        yield origin
        if isinstance(origin, Operation):
            left.extend(origin.sources)


def beginnings(origins: Iterable[Origin]) -> list[Beginning]:
    """Return where origins began, in order of execution.

    Inf that the user's code wrote itself is where they began only if nothing else is.
    """
    ends = [
        origin for origin in followed(origins) if isinstance(origin, Producer | Leaf)
    ]
    computed = [origin for origin in ends if not origin.deliberate]
    return sorted(computed or ends, key=lambda origin: origin.index)
