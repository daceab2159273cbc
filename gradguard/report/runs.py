"""Paths in, the runs below them out, each with what gradguard wrote and made of it."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import track

from gradguard.errors import ConfigError
from gradguard.health.diagnosis import diagnose
from gradguard.health.finding import Finding
from gradguard.health.threshold import Suggestion, suggest
from gradguard.records.recording import Recording
from gradguard.tensorboard.reader import DamagedFileError, read_recordings
from gradguard.tensorboard.tags import AFTER_RUN, BEFORE_RUN


@dataclass(frozen=True, eq=False)
class Run:
    """One optimizer of one run directory.

    Attributes:
        label: The last parts of its directory, as many as tell it from the others, and
            the optimizer where there are several.
        directory: Where its event files are.
        optimizer: Its name; empty where it is the only one.
        recording: What gradguard wrote.
    """

    label: str
    directory: Path
    optimizer: str
    recording: Recording

    @cached_property
    def findings(self) -> list[Finding]:
        """What is the matter with it, worst first."""
        return diagnose(self.recording)

    @cached_property
    def suggestion(self) -> Suggestion:
        """The threshold its norms speak for, and why."""
        return suggest(self.recording)


class LeftOut(NamedTuple):
    """A directory that holds events but cannot be reported, and why not."""

    directory: Path
    reason: str


class Found(NamedTuple):
    """What is below some paths: at least one run."""

    runs: list[Run]
    left_out: list[LeftOut]


def find_runs(paths: Iterable[Path]) -> Found:
    """Read every run at or below the paths, in the order of their names.

    Raises:
        ConfigError: If a path does not exist, is no directory, cannot be read, or holds
            no run of gradguard.
    """
    directories = dict.fromkeys(
        directory for path in paths for directory in _with_events(path)
    )
    recordings: dict[Path, dict[str, Recording]] = {}
    left_out: list[LeftOut] = []
    console = Console(stderr=True)
    quiet = not console.is_terminal
    for directory in track(
        directories, "Reading", console=console, transient=True, disable=quiet
    ):
        read = _read(directory)
        if isinstance(read, LeftOut):
            left_out.append(read)
        else:
            recordings[directory] = read
    if not recordings:
        more = f"; nor can {len(left_out) - 1} more" if len(left_out) > 1 else ""
        raise ConfigError(f"{left_out[0].directory} {left_out[0].reason}{more}")
    return Found(_runs(recordings), left_out)


def _read(directory: Path) -> dict[str, Recording] | LeftOut:
    try:
        recordings = read_recordings(directory)
    except DamagedFileError as error:
        return LeftOut(directory, f"cannot be read: {error}")
    except OSError as error:
        return LeftOut(directory, f"cannot be read: {error.strerror}")
    except ValueError:
        return LeftOut(directory, "holds events, but none of gradguard")
    whole = {
        optimizer: recording
        for optimizer, recording in recordings.items()
        if recording.records.before.size
    }
    return whole or LeftOut(directory, "holds no optimizer step")


def _with_events(path: Path) -> list[Path]:
    """Return the directories of event files, version_2 before version_10."""
    if not path.exists():
        raise ConfigError(f"{path} does not exist")
    if not path.is_dir():
        raise ConfigError(f"{path} is a file: expected the directory of a run")
    if not os.access(path, os.R_OK | os.X_OK):
        raise ConfigError(f"{path} cannot be read: Permission denied")
    found = {file.resolve().parent for file in path.rglob("*tfevents*")}
    # The two that the writer puts below a run hold nothing that the run does not.
    found -= {run / moment for run in found for moment in (BEFORE_RUN, AFTER_RUN)}
    if not found:
        raise ConfigError(
            f"{path} holds no events: expected the directory of a run that was trained "
            "with GradGuard and a TensorBoardLogger, or one above it"
        )
    return sorted(found, key=_natural)


def _natural(path: Path) -> list[str | int]:
    parts = re.split(r"(\d+)", str(path))
    return [int(part) if part.isdecimal() else part for part in parts]


def _runs(recordings: dict[Path, dict[str, Recording]]) -> list[Run]:
    common = len(Path(os.path.commonpath(recordings)).parts)
    last = max(2, *(len(directory.parts) - common for directory in recordings), 0)
    return [
        Run(
            "/".join(directory.parts[-last:]) + (f" {optimizer}" if optimizer else ""),
            directory,
            optimizer,
            recording,
        )
        for directory, optimizers in recordings.items()
        for optimizer, recording in optimizers.items()
    ]
