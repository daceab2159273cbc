"""A replay in, one self-contained page out."""

from functools import cache

from jinja2 import (
    ChoiceLoader,
    Environment,
    PackageLoader,
    StrictUndefined,
    Template,
)

from gradguard.replay.replayed import Replayed
from gradguard.replay.words import lines


def page(replayed: Replayed) -> str:
    """Return the page as HTML; it asks the network for nothing."""
    return _template().render(replayed=replayed, lines=list(lines(replayed)))


@cache
def _template() -> Template:
    # The colours and tables are those of the report.
    places = ("gradguard.replay", "gradguard.report")
    return Environment(
        loader=ChoiceLoader([PackageLoader(place, "static") for place in places]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("replay.html")
