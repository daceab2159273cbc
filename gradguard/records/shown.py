"""How records show themselves in a notebook: a verdict, a picture, a table."""

from importlib import import_module
from typing import Any


class Shown:
    """Records of steps that a notebook shows.

    Who draws stands far above the records, and is looked up when it is asked for: records
    themselves are of NumPy alone.
    """

    def _repr_html_(self) -> str:
        """Return the verdict and the norms as colours, as HTML."""
        drawn: str = _notebook().as_html(self)
        return drawn

    def plot(self) -> Any:
        """Return loss, total and norms by parameter as a figure of matplotlib."""
        return _notebook().as_figure(self)

    def to_pandas(self) -> Any:
        """Return a `pandas.DataFrame`, a row for each step.

        Its columns are `loss`, `total_before`, `total_after`, `clipped`, `nonfinite`, and
        of each parameter `before/<name>` and `after/<name>`.

        Raises:
            ImportError: If pandas is not installed.
        """
        return _notebook().as_frame(self)


def _notebook() -> Any:
    return import_module("gradguard.report.notebook")
