"""What broke a step: one operation, or one tensor that was broken before the step."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["operation", "scale", "weight", "buffer", "batch", "constant"]
Verdict = Literal["values", "rounding", "unknown"]
Direction = Literal["forward", "backward"]


@dataclass(frozen=True, kw_only=True)
class Values:
    """What one tensor holds.

    Attributes:
        role: What its operation calls the tensor: "self", "other", "grad"; "output".
        dtype: As in "float32".
        shape: Sizes, from the first dimension on.
        elements: How many.
        zeros: How many of them are zero.
        nan: How many of them are NaN.
        plus_inf: How many of them are +Inf.
        minus_inf: How many of them are -Inf.
        smallest: The smallest finite element, of complex ones the smallest part; None
            where none is finite.
        largest: The largest finite element, likewise.
    """

    role: str
    dtype: str
    shape: tuple[int, ...]
    elements: int
    zeros: int
    nan: int
    plus_inf: int
    minus_inf: int
    smallest: float | None
    largest: float | None


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of the user's: file, number from 1, and text without its indent."""

    file: str
    number: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Cause:
    """The first thing that made a loss or a gradient NaN or Inf.

    Attributes:
        kind: "operation"; "scale" where the operation would have been finite without
            the loss scale; "weight", "buffer" or "batch" where such a tensor was broken
            before the step; "constant" where a tensor was that is none of these.
        name: Of the operation, as torch calls it ("log", "div", "softmax") or as the
            class of a custom `autograd.Function` is called; of the weight or buffer
            ("encoder.weight"); path in the batch (`batch['image'][0]`).
        direction: The pass in which the operation broke; None for a tensor.
        module: Path of the module whose code called the operation ("encoder.layers.0");
            "" is the whole module; for a tensor, the module that holds it.
        line: Where the operation was called in the forward pass, in both directions;
            for a tensor, where it was used first. None if no line is the user's.
        kernel: What ran below that name ("log", "_softmax"); "" for a tensor.
        inputs: What the operation was given, in order.
        output: What it made; for a tensor, what it holds.
        hidden_by: The operation that hid a broken value in the forward pass, such as
            "where", so that the loss is finite and the backward pass is not.
        peak: Largest magnitude the output would have had in float64, where that is
            finite: the operation left the range of its dtype, and nothing else.
        rows: First indices at which a weight, buffer or batch is broken; at most ten.
        micro_batch: Position in the accumulation window of the batch that broke.
        advice: What to try, one sentence.
    """

    kind: Kind
    name: str
    direction: Direction | None
    module: str
    line: Line | None
    kernel: str
    inputs: tuple[Values, ...]
    output: Values
    hidden_by: str | None
    peak: float | None
    rows: tuple[int, ...]
    micro_batch: int
    advice: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a step ended.

    Attributes:
        losses: Of each micro-batch, as far as they are known.
        norms_before: L2 norm of each gradient before clipping, by parameter name.
        nonfinite: Names of the parameters whose gradient holds a NaN or an Inf.
    """

    losses: tuple[float, ...]
    norms_before: dict[str, float]
    nonfinite: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One sample of a batch, run alone.

    Attributes:
        micro_batch: Position of its batch in the accumulation window.
        index: Position in that batch.
        nonfinite: Whether its loss or a gradient of it is NaN or Inf.
        norm_before: L2 norm of its gradient before clipping, as the step leaves it.
        share: Its part of the gradient of all samples, by projection on that: the shares
            of all samples sum to 1, and one that pulls the other way is below 0. 0 where
            the gradient is not finite.
        layers: Parameters that carry most of its gradient, with their shares of its
            squared norm, largest first.
    """

    micro_batch: int
    index: int
    nonfinite: bool
    norm_before: float
    share: float
    layers: tuple[tuple[str, float], ...]


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Which samples of the batch do it.

    Attributes:
        count: Samples in all batches of the step; 0 where a batch cannot be split.
        culprits: The samples that do it, worst first; empty if nobody is to blame alone.
        caveat: Why samples cannot be blamed, or not exactly; "" if they can.
        dropout_off: Whether samples were compared without the dropout of the step, since
            each sample alone would draw other elements.
        runs: How many times the step was run to find out.
    """

    count: int
    culprits: tuple[Sample, ...]
    caveat: str
    dropout_off: bool
    runs: int


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Whether the same step is finite in wider numbers.

    Attributes:
        verdict: "values" if it breaks in float64 as well, "rounding" if it does not,
            "unknown" if it cannot be run in float64.
        float32: Whether it is finite in float32; None if it cannot be run so.
        float64: Whether it is finite in float64; likewise.
        sentence: The verdict in words.
    """

    verdict: Verdict
    float32: bool | None
    float64: bool | None
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Replay:
    """A bad step run again.

    Attributes:
        outcome: How the step ended this time.
        cause: What broke it; None if nothing did.
        samples: Which samples do it; None where the step is neither broken nor a spike.
        precision: The same step in wider numbers; None if nothing broke.
    """

    outcome: Outcome
    cause: Cause | None
    samples: Samples | None
    precision: Precision | None
