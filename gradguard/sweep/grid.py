"""What a sweep runs: every combination of the swept settings, under every seed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from gradguard.errors import ConfigError
from gradguard.experiments.config import Experiment
from gradguard.experiments.resolve import clip_list, resolve
from gradguard.experiments.yaml_text import parse, write_inline
from gradguard.sweep.results import path


@dataclass(frozen=True)
class Point:
    """One value of a swept setting, or of two that are set together.

    Attributes:
        values: What the table shows, by setting; None for a clip that is not there.
        assignment: The same as `--set` would say it.
    """

    values: dict[str, Any]
    assignment: str


@dataclass(frozen=True)
class Cell:
    """One combination of swept values.

    Attributes:
        values: The swept settings and their values here.
        experiments: The same experiment under one seed after the other.
    """

    values: dict[str, Any]
    experiments: tuple[Experiment, ...]

    def __str__(self) -> str:
        named = (f"{name}={shown(value)}" for name, value in self.values.items())
        return ", ".join(named) or self.experiments[0].name


def points(text: str) -> list[Point]:
    """Return a point for each value of "KEY=VALUE,VALUE,...".

    Raises:
        ConfigError: If the text is not KEY=VALUES.

    Examples:
        >>> [point.assignment for point in points("model.lr=1e-3,0.1")]
        ['model.lr=0.001', 'model.lr=0.1']
    """
    key, equals, values = map(str.strip, text.partition("="))
    if not (key and equals):
        raise ConfigError(f"--sweep expects KEY=VALUES, got {text!r}")
    return [
        Point({key: value}, f"{key}={write_inline(value)}")
        for value in _values(values, source=key)
    ]


def clip_points(
    norm: str | None, value: str | None, *, order: str | None, per_parameter: bool
) -> list[Point]:
    """Return a point for each pair of a largest norm and a largest value, or "none".

    Args:
        norm: Largest norms, separated by commas.
        value: Largest absolute values, separated by commas.
        order: Which of the two comes first, "norm,value" or "value,norm".
        per_parameter: Whether a norm holds for each parameter by itself.

    Raises:
        ConfigError: If a flag cannot be read, or lacks another it needs.
    """
    clip_list(norm, value, order=order, per_parameter=per_parameter)  # or it raises
    given = {"norm": norm, "value": value}
    axes = {
        f"clip_{kind}": _values(text, source=f"--clip-{kind}")
        for kind, text in given.items()
        if text is not None
    }
    found = []
    for pair in product(*axes.values()):
        values = dict(zip(axes, (_or_none(number) for number in pair), strict=True))
        texts = [
            None if number is None else write_inline(number)
            for number in map(values.get, ("clip_norm", "clip_value"))
        ]
        clips = clip_list(
            *texts,
            order=None if None in texts else order,
            per_parameter=per_parameter and texts[0] is not None,
        )
        found.append(Point(values, f"clip={write_inline(clips or [])}"))
    return found if axes else []


def grid(
    axes: Iterable[Sequence[Point]],
    *,
    seeds: int,
    config: str | None = None,
    assignments: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
) -> list[Cell]:
    """Return the cells of all combinations of the points, checked against the schema.

    Args:
        axes: Points, an inner sequence for each setting that is swept.
        seeds: How many runs a cell has: the experiment's own seed and those after it.
        config: As `resolve` takes it.
        assignments: As `resolve` takes them; the points come after them.
        values: As `resolve` takes them.

    Raises:
        ConfigError: If one of the cells is no experiment, or is there twice.
    """
    cells = []
    for chosen in product(*axes):
        added = [point.assignment for point in chosen]
        experiment = resolve(
            config=config, assignments=[*assignments, *added], values=values
        )
        cells.append(
            Cell(
                {key: value for point in chosen for key, value in point.values.items()},
                tuple(
                    experiment.model_copy(update={"seed": experiment.seed + number})
                    for number in range(seeds)
                ),
            )
        )
    there = set()
    for cell in cells:
        result = path(cell.experiments[0])
        if result in there:
            raise ConfigError(f"{cell} is in the sweep twice")
        there.add(result)
    return cells


def shown(value: Any) -> str:
    """Return a swept value as tables show it.

    Examples:
        >>> shown(None), shown(0.10), shown("adam")
        ('none', '0.1', 'adam')
    """
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _values(text: str, *, source: str) -> list[Any]:
    """Read "1,5" and "[],[{norm: 5}]": a YAML sequence without its brackets."""
    values = parse(f"[{text}]", source=f"{source} {text!r}")
    if not values:
        raise ConfigError(f"{source} has no value")
    return list(values)


def _or_none(number: Any) -> Any:
    return None if number == "none" else number
