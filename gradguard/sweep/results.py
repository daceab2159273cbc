"""What became of one run of a sweep, kept in a file named by the run's settings."""

import hashlib
import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from gradguard.experiments.config import Experiment
from gradguard.output import as_json

# Raised when a result means something else than before: those on disk are run again.
_FORMAT = 1


@dataclass(frozen=True)
class Result:
    """What one run came to: metrics, stuck units, clipping.

    Attributes:
        train: Final metrics by name over the training set; NaN if the run diverged.
        test: The same over the test set.
        units: Share of stuck hidden units, see `gradguard.experiments.hidden_units.stuck_units`.
        clip_fraction: Share of the steps on which the clip fired, 0 to 1.
        steps: Optimizer steps.
        first_nonfinite_loss: First step whose loss was NaN or Inf; None if none was.
        stopped: Why the run ended itself (`on_nonfinite: raise`); None if it did not.
        run_dir: Where its events are; None if they were not kept.
    """

    train: dict[str, float]
    test: dict[str, float]
    units: dict[str, float]
    clip_fraction: float
    steps: int
    first_nonfinite_loss: int | None = None
    stopped: str | None = None
    run_dir: str | None = None

    @property
    def diverged(self) -> bool:
        """Whether a loss or a final metric was NaN or Inf."""
        if self.first_nonfinite_loss is not None or self.stopped is not None:
            return True
        finals = (*self.train.values(), *self.test.values())
        return not all(map(math.isfinite, finals))


def path(experiment: Experiment) -> Path:
    """Return the file of a run's result, named by a hash of the settings that decide it.

    That is every setting but names, directories, and what is written how often.
    """
    unimportant = {"name", "log_dir", "layer_statistics"}
    settings = experiment.model_dump(mode="json", exclude=unimportant)
    del settings["trainer"]["log_every_n_steps"]
    text = json.dumps([_FORMAT, settings], sort_keys=True)
    name = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Path(experiment.log_dir) / experiment.name / "sweep" / f"{name}.json"


def load(experiment: Experiment) -> Result | None:
    """Return the result of an earlier run, or None if there is none."""
    try:
        fields = json.loads(path(experiment).read_text(encoding="utf-8"))["result"]
        for part in ("train", "test", "units"):
            fields[part] = {name: _number(one) for name, one in fields[part].items()}
        return Result(**fields | {"clip_fraction": _number(fields["clip_fraction"])})
    except (FileNotFoundError, LookupError, TypeError, ValueError, AttributeError):
        return None  # no file, or no result in it


def save(experiment: Experiment, result: Result) -> None:
    """Write the result so that a reader finds all of it or nothing."""
    content = {
        "result": asdict(result),
        "experiment": experiment.model_dump(mode="json", exclude_none=True),
    }
    target = path(experiment)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_suffix(f".{os.getpid()}")
    unfinished.write_text(as_json(content, indent=1), encoding="utf-8")
    unfinished.replace(target)


def _number(value: float | str | None) -> float:
    """Read a number back that `as_json` wrote."""
    return math.nan if value is None else float(value)
