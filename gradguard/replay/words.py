"""What a replay found out, in words: a heading each, and what stands below it."""

from collections.abc import Iterator
from pathlib import Path

from gradguard.names import named
from gradguard.replay.cause import Cause, Sample, Samples, Values
from gradguard.replay.replayed import Replayed

# Largest numbers of the types that are left first.
_LARGEST = {"float16": 65504.0, "bfloat16": 3.39e38, "float32": 3.40e38}

_MOST_SAMPLES = 5

# Share of a sample's gradient from which a layer is worth naming.
_WORTH_NAMING = 0.01


def lines(replayed: Replayed) -> Iterator[tuple[str, str]]:
    """Yield headings and sentences, in the order in which they are read."""
    yield "step", step(replayed)
    yield "again", again(replayed)
    if replayed.differences:
        yield from (("note", note) for note in replayed.notes)
    if replayed.cause:
        yield from broke(replayed, replayed.cause)
    elif not replayed.was_finite or replayed.differences:
        yield "broke", "nothing: loss and gradients are finite"
    if replayed.samples:
        yield from samples(replayed, replayed.samples)
    if replayed.precision:
        yield "numbers", replayed.precision.sentence
    if replayed.cause:
        yield "try", replayed.cause.advice
    elif replayed.samples and replayed.samples.culprits:
        yield "try", "look at where these samples come from; if they are right, clip"


def step(replayed: Replayed) -> str:
    """Say which step it was."""
    loss = "loss unknown" if replayed.loss is None else f"loss {replayed.loss:.4g}"
    batches = ", ".join(map(str, replayed.batches))
    several = "es" * (len(replayed.batches) > 1)
    return (
        f"{replayed.step} of {replayed.module}, epoch {replayed.epoch}, "
        f"batch{several} {batches}, {loss}, precision {replayed.run_precision}"
    )


def again(replayed: Replayed) -> str:
    """Say whether the step ended as it did."""
    if replayed.differences:
        return f"not reproduced: {named(replayed.differences)}"
    if replayed.was_finite:
        return "reproduced: gradients are finite, and of the norms they had"
    return "reproduced: NaN and Inf are in the gradients they were in"


def broke(replayed: Replayed, cause: Cause) -> Iterator[tuple[str, str]]:
    """Yield what broke, where it stands, and what went in and came out."""
    where = _batch(replayed, cause.micro_batch)
    yield "broke", _what(cause, replayed.module) + where
    if cause.line:
        place = f"{_short(cause.line.file)}:{cause.line.number}"
        yield "line", f"{place}: {cause.line.text}"
    for value in cause.inputs:
        yield "input", f"{value.role}: {holds(value)}"
    yield ("output" if cause.direction else "holds"), holds(cause.output)
    if cause.peak is not None:
        dtype = cause.output.dtype
        largest = f", of which the largest is {_LARGEST[dtype]:g}" * (dtype in _LARGEST)
        yield "range", f"in float64 it reaches {cause.peak:.3g}; it is {dtype}{largest}"


def _what(cause: Cause, whole: str) -> str:
    place = f"in {cause.module or whole}"
    if cause.direction is None:
        rows = f", in {named([f'[{row}]' for row in cause.rows])}" if cause.rows else ""
        kind = "" if cause.kind == "batch" else f"{cause.kind} "
        return f"{kind}{cause.name} was not finite before the step{rows}"
    name = f"backward of {cause.name}" * (cause.direction == "backward") or cause.name
    if cause.kind == "scale":
        return f"{name}, {place}, by the loss scale alone"
    hidden = (
        f"; {cause.hidden_by} hides it in the forward pass" if cause.hidden_by else ""
    )
    return f"{name}, {cause.direction} pass, {place}{hidden}"


def _batch(replayed: Replayed, place: int) -> str:
    several = len(replayed.batches) > 1
    return f", batch {replayed.batches[place]}" if several else ""


def holds(values: Values) -> str:
    """Say what a tensor holds: its type and shape, its range, and what is not finite."""
    kinds = {"NaN": values.nan, "+Inf": values.plus_inf, "-Inf": values.minus_inf}
    kinds = {"zero" if values.zeros == 1 else "zeros": values.zeros, **kinds}
    counted = [f"{number:,} {kind}" for kind, number in kinds.items() if number]
    shape = list(values.shape) or "one number"
    return ", ".join([f"{values.dtype} {shape}", *_span(values), *counted])


def _span(values: Values) -> list[str]:
    if values.smallest is None or values.largest is None:
        return []
    if values.smallest == values.largest:
        return [f"{values.smallest:.4g}"]
    return [f"{values.smallest:.4g} to {values.largest:.4g}"]


def samples(replayed: Replayed, found: Samples) -> Iterator[tuple[str, str]]:
    """Yield which samples do it, how much, and in which layers."""
    if found.culprits:
        places = [
            f"{each.index}{_batch(replayed, each.micro_batch)}"
            for each in found.culprits
        ]
        without = ", compared without dropout" * found.dropout_off
        yield "samples", f"{named(places)} of {found.count}{without}"
        if replayed.was_finite:
            yield from (("", carries(each)) for each in found.culprits[:_MOST_SAMPLES])
    if found.caveat:
        yield ("" if found.culprits else "samples"), found.caveat


def carries(sample: Sample) -> str:
    """Say how large a sample's gradient is, and which layers carry it."""
    layers = [
        f"{name} ({share:.0%})"
        for name, share in sample.layers
        if share >= _WORTH_NAMING
    ]
    most = f", in {named(layers)}" if layers else ""
    return (
        f"sample {sample.index}: norm {sample.norm_before:.3g}, "
        f"{sample.share:.0%} of the batch's{most}"
    )


def _short(file: str) -> str:
    """Return a path as seen from here, if it lies below."""
    path, here = Path(file), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else file
