"""What the page's scripts share with Python, written as a script of its own."""

from typing import Any

from gradguard.output import as_json
from gradguard.records.statistics import BY_EPOCH
from gradguard.tensorboard.page import heat


def script() -> str:
    """Return the JavaScript module `constants.js`."""
    constants: dict[str, Any] = {
        "STATISTICS": {name: shown._asdict() for name, shown in BY_EPOCH.items()},
        "PER_DECADE": heat.PER_DECADE,
        "MISSING_CELL": heat.MISSING_CELL,
        "ZERO_CELL": heat.ZERO_CELL,
        "INF_CELL": heat.INF_CELL,
    }
    return "".join(
        f"export const {name} = {as_json(value)};\n"
        for name, value in constants.items()
    )
