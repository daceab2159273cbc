"""What the page may ask for: the arguments of a request, checked."""

import re
from collections.abc import Mapping, Sequence
from typing import TypeVar, get_args

import numpy as np
from tensorboard.errors import InvalidArgumentError, NotFoundError

from gradguard.records.records import Records
from gradguard.tensorboard.page.heat import Moment, Scale

Arguments = Mapping[str, str]
Choice = TypeVar("Choice", bound=str)

MOMENTS: tuple[Moment, ...] = get_args(Moment)
SCALES: tuple[Scale, ...] = get_args(Scale)
_LARGEST_STEP = 2**53  # the largest integer JavaScript counts to
_MOST_BINS = 8192  # more than any screen has pixels

_SPAN = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?", re.ASCII)


def integer(arguments: Arguments, name: str, *, low: int, high: int) -> int:
    """Return an argument that is a whole number from `low` to `high`.

    Raises:
        InvalidArgumentError: If it is missing or no such number.
    """
    text = arguments.get(name, "")
    if not re.fullmatch(r"-?\d{1,18}", text, re.ASCII) or not low <= int(text) <= high:
        raise InvalidArgumentError(
            f"{name} must be a whole number from {low} to {high}, got {text!r}."
        )
    return int(text)


def choice(arguments: Arguments, name: str, options: Sequence[Choice]) -> Choice:
    """Return an argument that is one of the options.

    Raises:
        InvalidArgumentError: If it is none of them.
    """
    text = arguments.get(name, "")
    for option in options:
        if text == option:
            return option
    raise InvalidArgumentError(
        f"{name} must be one of {', '.join(options)}, got {text!r}."
    )


def bins(arguments: Arguments) -> int:
    """Return how many bins `bins` asks for.

    Raises:
        InvalidArgumentError: If it is no number of bins.
    """
    return integer(arguments, "bins", low=1, high=_MOST_BINS)


def window(arguments: Arguments, records: Records) -> slice:
    """Return the records from step `start` to step `stop`, both included.

    Raises:
        InvalidArgumentError: If these are no steps, or nothing was recorded between.
    """
    start = integer(arguments, "start", low=0, high=_LARGEST_STEP)
    stop = integer(arguments, "stop", low=0, high=_LARGEST_STEP)
    first = int(np.searchsorted(records.steps, start, "left"))
    end = int(np.searchsorted(records.steps, stop, "right"))
    if first >= end:
        raise InvalidArgumentError(
            f"start and stop must have recorded steps between them, got {start} to "
            f"{stop} of a run from {records.steps[0]} to {records.steps[-1]}."
        )
    return slice(first, end)


def nearest(arguments: Arguments, records: Records) -> int:
    """Return which of the records is the last up to step `step`, or the first.

    Raises:
        InvalidArgumentError: If `step` is no step.
    """
    step = integer(arguments, "step", low=0, high=_LARGEST_STEP)
    return max(0, int(np.searchsorted(records.steps, step, "right")) - 1)


def groups(arguments: Arguments, records: Records) -> list[list[int]]:
    """Return the columns that share each row of a heatmap.

    `rows` is written like "0-3;4,6": the first row shows parameters 0 to 3, the second
    4 and 6.

    Raises:
        InvalidArgumentError: If it is not, or names parameters there are not.
    """
    size = len(records.names)
    rows = [
        [column for span in row.split(",") for column in _span(span, size)]
        for row in arguments.get("rows", "").split(";")
    ]
    if sum(map(len, rows)) > size:
        raise InvalidArgumentError("rows must name each parameter once at most.")
    return rows


def parameter(arguments: Arguments, records: Records) -> int:
    """Return the column of the parameter called `parameter`.

    Raises:
        NotFoundError: If there is none.
    """
    name = arguments.get("parameter", "")
    if name not in records.names:
        raise NotFoundError(f"the run has no parameter {name!r}.")
    return records.names.index(name)


def _span(text: str, size: int) -> range:
    match = _SPAN.fullmatch(text)
    if match:
        first = int(match[1])
        last = int(match[2] or first)
        if first <= last < size:
            return range(first, last + 1)
    raise InvalidArgumentError(
        f"rows must look like 0-3;4,6 with numbers below {size}, got {text[:40]!r}."
    )
