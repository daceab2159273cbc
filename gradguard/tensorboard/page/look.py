"""A finding or a cause in, the view of the page that shows it out."""

from typing import Any, Literal, NamedTuple

import numpy as np

from gradguard.health.finding import Finding
from gradguard.health.verdict import Cause
from gradguard.records.records import Records

# Steps on each side of one that stands out.
_AROUND = 50

# After the first step that is not finite nothing is left to see.
_AFTER_THE_LAST_FINITE = 10

# An explosion fills at least this many steps of the screen.
_SHORTEST = 20


class _Way(NamedTuple):
    """How to look at a kind of finding.

    Attributes:
        where: "start" up to twice its step, "before" the step, "around" it, or at "all".
        more: How the heatmap shows it.
    """

    where: Literal["start", "before", "around", "all"]
    more: dict[str, str]


_ABSOLUTE = {"scale": "absolute"}
_BY_DEPTH = {"scale": "absolute", "group": "block"}
_REMOVED = {"moment": "removed"}

# By kind; of others the page shows its first view.
_WAYS = {
    "exploded": _Way("start", _ABSOLUTE),
    "exploding": _Way("start", _ABSOLUTE),
    "overflow": _Way("start", _ABSOLUTE),
    "frozen": _Way("start", _ABSOLUTE),
    "overshoot": _Way("start", _ABSOLUTE),
    "nonfinite-gradient": _Way("before", {}),
    "nonfinite-loss": _Way("before", {}),
    "refused": _Way("around", {}),
    "spike": _Way("around", {}),
    "exploding-at-init": _Way("all", _BY_DEPTH),
    "vanishing": _Way("all", _BY_DEPTH),
    "collapsed": _Way("all", _ABSOLUTE),
    "dead": _Way("all", _ABSOLUTE),
    "no-gradient": _Way("all", _ABSOLUTE),
    "clip-too-high": _Way("all", _REMOVED),
    "clip-always": _Way("all", _REMOVED),
}


def look(found: Cause | Finding, records: Records) -> dict[str, Any]:
    """Return what of the page's view is settled by what was found, by the names of the link.

    Steps are those recorded: a window that holds all of them is none.
    """
    way = _WAYS.get(found.kind, _Way("all", {}))
    seen: dict[str, Any] = dict(way.more)
    if found.step is not None:
        seen |= {"step": _telling(found.step, records)}
        seen |= _window(way, found.step, records)
    if found.parameter in records.names:
        seen["parameter"] = found.parameter
    return seen


def _telling(step: int, records: Records) -> int:
    """Return the last recorded step up to `step` on which some gradient was finite."""
    finite = np.isfinite(records.before).any(axis=1) & (records.steps <= step)
    return int(records.steps[finite][-1]) if finite.any() else step


def _window(way: _Way, step: int, records: Records) -> dict[str, int]:
    low, high = int(records.steps[0]), int(records.steps[-1])
    start, stop = {
        "all": (low, high),
        "start": (low, max(2 * step, low + _SHORTEST)),
        "before": (step - _AROUND, step + _AFTER_THE_LAST_FINITE),
        "around": (step - _AROUND, step + _AROUND),
    }[way.where]
    start, stop = max(start, low), min(stop, high)
    return {} if (start, stop) == (low, high) else {"start": start, "stop": stop}
