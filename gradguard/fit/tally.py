"""How a fit is going, as of its last write: a few numbers for a progress bar."""

from dataclasses import dataclass

from gradguard.records.records import Records


@dataclass(frozen=True)
class Tally:
    """Counts over all optimizers since the fit began.

    Attributes:
        steps: Steps written.
        clipped: Of those, on how many the clip fired.
        nonfinite: On how many a gradient held a NaN or an Inf.
        total_before: L2 norm over all parameters before clipping, at the last one.
    """

    steps: int = 0
    clipped: int = 0
    nonfinite: int = 0
    total_before: float = float("nan")

    @property
    def clip_fraction(self) -> float:
        """Share of the steps on which the clip fired, 0 to 1; NaN before the first."""
        return self.clipped / self.steps if self.steps else float("nan")

    def plus(self, records: Records) -> "Tally":
        """Return the counts with those of one write, of at least one step."""
        return Tally(
            self.steps + len(records.steps),
            self.clipped + int(records.clipped.sum()),
            self.nonfinite + int(records.nonfinite.sum()),
            float(records.total_before[-1]),
        )
