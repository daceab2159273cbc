"""Records in, what a notebook shows of them out."""

from functools import cache
from importlib import import_module
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from matplotlib.figure import Figure

from gradguard.health.verdict import verdict
from gradguard.records.recording import Recording
from gradguard.records.records import Records
from gradguard.report.heatmap import MOST_LABELS, heatmap
from gradguard.report.picture import slide
from gradguard.report.runs import Run
from gradguard.report.view import View


def as_html(shown: Records | Recording) -> str:
    """Return the verdict and the norms as colours."""
    recording = _recording(shown)
    if not recording.records.before.size:
        return f"<p>{shown!r}</p>"
    said = verdict(recording)
    heat = heatmap(recording, said)
    labels = heat.names if len(heat.names) <= MOST_LABELS else ()
    return _template().render(verdict=said, heat=heat, labels=labels)


def as_figure(shown: Records | Recording) -> Figure:
    """Return the slide of a run."""
    return slide([Run("this run", "", "", _recording(shown))], view=View())


def as_frame(shown: Records | Recording) -> Any:
    """Return a DataFrame of pandas, a row for each step.

    Raises:
        ImportError: If pandas is not installed.
    """
    try:
        pandas = import_module("pandas")
    except ImportError:
        raise ImportError(
            "to_pandas() needs pandas, which is not installed: pip install pandas"
        ) from None
    records = _recording(shown).records
    columns: dict[str, Any] = {
        "loss": records.loss,
        "total_before": records.total_before,
        "total_after": records.total_after,
        "clipped": records.clipped,
        "nonfinite": records.nonfinite,
    }
    for moment, norms in (("before", records.before), ("after", records.after)):
        columns |= {
            f"{moment}/{name}": norms[:, column]
            for column, name in enumerate(records.names)
        }
    return pandas.DataFrame(columns, index=pandas.Index(records.steps, name="step"))


def _recording(shown: Records | Recording) -> Recording:
    return shown if isinstance(shown, Recording) else Recording(shown)


@cache
def _template() -> Template:
    return Environment(
        loader=PackageLoader("gradguard.report", "static"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("notebook.html")
