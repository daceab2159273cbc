"""Runs of one cell side by side: the median over seeds, the smallest, the largest."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, NamedTuple

from gradguard.sweep.grid import Cell
from gradguard.sweep.results import Result


class Spread(NamedTuple):
    """Median, smallest and largest of a number over the runs that have it."""

    median: float
    min: float
    max: float


@dataclass(frozen=True)
class Summary:
    """A cell and the results of its runs.

    Attributes:
        cell: What was run.
        results: One for each seed; None for a run that failed.
    """

    cell: Cell
    results: tuple[Result | None, ...]

    @property
    def ended(self) -> list[Result]:
        """The results of the runs that did not fail."""
        return [result for result in self.results if result is not None]

    @property
    def diverged(self) -> int:
        """How many runs came to NaN or Inf."""
        return sum(result.diverged for result in self.ended)

    def spread(self, part: str, name: str) -> Spread | None:
        """Return the spread of one number of "train", "test" or "units", where finite."""
        return _spread([getattr(one, part).get(name, math.nan) for one in self.ended])

    @property
    def clip_fraction(self) -> Spread | None:
        """The spread of the share of steps on which the clip fired."""
        return _spread([result.clip_fraction for result in self.ended])

    def as_json(self) -> dict[str, Any]:
        """Return the cell, its runs and the numbers of the table, ready for JSON."""
        parts = {
            part: {
                name: _as_dict(self.spread(part, name)) for name in names(self, part)
            }
            for part in ("train", "test", "units")
        }
        return {
            "settings": self.cell.values,
            "runs": [
                {"seed": experiment.seed, "result": result and asdict(result)}
                for experiment, result in zip(
                    self.cell.experiments, self.results, strict=True
                )
            ],
            "failed": len(self.results) - len(self.ended),
            "diverged": self.diverged,
            "clip_fraction": _as_dict(self.clip_fraction),
            **parts,
        }


def varied(cells: Sequence[Cell]) -> list[str]:
    """Return the swept settings that take more than one value."""
    values = [cell.values for cell in cells]
    return [
        name
        for name in values[0]
        if any(one[name] != values[0][name] for one in values)
    ]


def names(summary: Summary, part: str) -> list[str]:
    """Return the names in `part` of the results: "train", "test" or "units"."""
    return list(
        dict.fromkeys(name for one in summary.ended for name in getattr(one, part))
    )


def headline(summaries: Sequence[Summary]) -> str:
    """Return the metric that says how good a run is: mse or accuracy."""
    metrics = [name for summary in summaries for name in names(summary, "train")]
    return next((name for name in metrics if name != "loss"), "loss")


def _spread(values: list[float]) -> Spread | None:
    finite = list(filter(math.isfinite, values))
    return Spread(median(finite), min(finite), max(finite)) if finite else None


def _as_dict(spread: Spread | None) -> dict[str, float] | None:
    return None if spread is None else spread._asdict()
