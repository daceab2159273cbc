"""The experiment that `gradguard train` writes beside a run's events, as far as it says what clips."""

from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from gradguard.errors import ConfigError
from gradguard.experiments.config import Experiment
from gradguard.experiments.resolve import parse

# The rest says nothing of clipping, and its rules would import the model.
_SECTIONS = ("name", "clip")
_TRAINER = ("gradient_clip_val", "gradient_clip_algorithm")


class Kept(NamedTuple):
    """What an experiment is called and what clips its gradients, in words."""

    name: str
    clipping: str


def kept(path: Path) -> Kept | None:
    """Return what an experiment file says; None if it is none of gradguard's."""
    try:
        settings = parse(path.read_text(encoding="utf-8"))
        experiment = Experiment.model_validate(_part(settings))
    except (OSError, UnicodeDecodeError, ConfigError, ValidationError, TypeError):
        return None
    return Kept(experiment.name, experiment.clipping)


def _part(settings: Any) -> dict[str, Any]:
    trainer = dict(settings).get("trainer") or {}
    return {
        **{key: settings[key] for key in _SECTIONS if key in settings},
        "trainer": {key: trainer[key] for key in _TRAINER if key in trainer},
        "model": {"name": "any"},
        "data": {},
    }
