"""What a fit says for itself: one line when it turns bad, and a verdict when it ends."""

import os
import shlex
import shutil
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from gradguard.fit.story import Story
from gradguard.health.telling import alarm, told
from gradguard.health.verdict import Verdict, verdict
from gradguard.records.recording import SavedStep
from gradguard.records.records import Records
from gradguard.records.schema import Schema
from gradguard.tensorboard.places import is_url

_WORST_FIRST = ("error", "warning", None)

_SPEAKER = "gradguard: "

# Wider lines are hard to read.
_WIDEST = 100


class Herald:
    """Hear of every write of a fit, and tell on stderr what has to be told.

    Args:
        trainer: A Trainer of either namespace of Lightning; what has no bar wants no chatter.
        directory: Where the records are written; "" if they are in no event files.
    """

    def __init__(self, trainer: Any, directory: str) -> None:
        self._trainer = trainer
        self._report = f"gradguard report {_short(directory)}" if directory else ""
        self._stories: dict[str, Story] = {}
        self._alarmed = self._loss_known = False

    def hear(self, schema: Schema, records: Records) -> None:
        """Keep the steps of a write, and say it at once when the first is not finite."""
        self._story(schema).add(schema, records)
        self._loss_known |= not np.isnan(records.loss).all()
        found = None if self._alarmed else alarm(records, loss_known=self._loss_known)
        if found is not None:
            self._alarmed = True
            more = f"; {self._report}" if self._report else ""
            _say(f"{_SPEAKER}{found}{more}")

    def hear_saved(self, schema: Schema, saved: SavedStep) -> None:
        """Note where a bad step was saved."""
        self._story(schema).saved.append(saved)

    def tell(self) -> None:
        """Say the verdict, of several optimizers the worst; once."""
        stories, self._stories = self._stories, {}
        try:
            verdicts = {
                optimizer: verdict(story.recording(), optimizer=optimizer)
                for optimizer, story in stories.items()
                if story.has_steps
            }
            if verdicts:
                self._tell_worst(verdicts)
        except Exception as error:  # words are never worth somebody's training
            warnings.warn(
                f"GradGuard has no verdict ({type(error).__name__}: {error})",
                stacklevel=2,
            )

    def _story(self, schema: Schema) -> Story:
        return self._stories.setdefault(schema.optimizer, Story())

    def _tell_worst(self, verdicts: dict[str, Verdict]) -> None:
        worst = min(verdicts, key=lambda one: _rank(verdicts[one]))
        chosen = verdicts[worst]
        if chosen.worst is None and not self._trainer.progress_bar_callback:
            return  # whoever wants no bar wants no chatter
        width = min(shutil.get_terminal_size().columns, _WIDEST)
        label = f"{worst}: " if len(verdicts) > 1 and chosen.worst else ""
        speaker = f"{_SPEAKER}{label}"
        lines = told(chosen, width=width, report=self._report, speaker=speaker)
        _say("\n".join(lines))


def _say(text: str) -> None:
    """Print on stderr; bars of tqdm step aside, and those of rich do so by themselves."""
    tqdm.write(text, file=sys.stderr)


def _rank(one: Verdict) -> int:
    return _WORST_FIRST.index(one.severity)


def _short(directory: str | Path) -> str:
    """Return a directory as one would type it: from here, if it is below."""
    place = os.fspath(directory)
    if not is_url(place):
        path = Path(place)
        with suppress(OSError, ValueError):  # there is no here, or it is elsewhere
            path = path.relative_to(Path.cwd())
        place = os.fspath(path)
    return shlex.quote(place)
