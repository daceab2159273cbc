"""Paths in, the runs below them out, each with what gradguard wrote and made of it."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import track

from gradguard.errors import ConfigError
from gradguard.health.diagnosis import diagnose
from gradguard.health.finding import Finding
from gradguard.health.threshold import Suggestion, suggest
from gradguard.health.verdict import Verdict, verdict
from gradguard.records.recording import Recording
from gradguard.tensorboard.places import (
    Tree,
    exists,
    is_directory,
    is_url,
    located,
    same_files,
    tree,
)
from gradguard.tensorboard.reader import DamagedFileError, read_recordings
from gradguard.tensorboard.tags import AFTER_RUN, BEFORE_RUN


@dataclass(frozen=True, eq=False)
class Run:
    """One optimizer of one run directory.

    Attributes:
        label: The last parts of its directory, as many as tell it from the others, and
            the optimizer where there are several.
        directory: Where its event files are; a path, or the URL of one.
        optimizer: Its name; empty where it is the only one.
        recording: What gradguard wrote.
    """

    label: str
    directory: str
    optimizer: str
    recording: Recording

    @cached_property
    def findings(self) -> list[Finding]:
        """What is the matter with it, worst first."""
        return diagnose(self.recording)

    @cached_property
    def verdict(self) -> Verdict:
        """What is wrong with it, each cause once, and what to do."""
        return verdict(self.recording, optimizer=self.optimizer, found=self.findings)

    @cached_property
    def suggestion(self) -> Suggestion:
        """The threshold its norms speak for, and why."""
        return suggest(self.recording, found=self.findings)


class LeftOut(NamedTuple):
    """A directory that holds events but cannot be reported, and why not."""

    directory: str
    reason: str


class Found(NamedTuple):
    """What is below some paths: at least one run."""

    runs: list[Run]
    left_out: list[LeftOut]


def find_runs(paths: Iterable[str | Path]) -> Found:
    """Read every run at or below the paths, in the order of their names.

    Args:
        paths: Directories, or their URLs. A run that several links or paths lead to is
            read once.

    Raises:
        ConfigError: If a path does not exist, is no directory, cannot be read, or holds
            no run of gradguard.
    """
    trees = [_found(path) for path in paths]
    directories = _distinct(trees)
    named = {directory for below in trees for directory in below.files}
    recordings: dict[str, dict[str, Recording]] = {}
    closed = {name: error for below in trees for name, error in below.closed.items()}
    left_out = [
        LeftOut(directory, f"cannot be read: {error.strerror}")
        for directory, error in closed.items()
    ]
    console = Console(stderr=True)
    quiet = not console.is_terminal
    for directory in track(
        directories, "Reading", console=console, transient=True, disable=quiet
    ):
        read = _read(directory)
        if not isinstance(read, LeftOut):
            recordings[directory] = read
        elif not _is_below_its_run(directory, named):
            left_out.append(read)
    if not recordings:
        more = f"; nor can {len(left_out) - 1} more" if len(left_out) > 1 else ""
        raise ConfigError(f"{left_out[0].directory} {left_out[0].reason}{more}")
    return Found(_runs(recordings), left_out)


def _read(directory: str) -> dict[str, Recording] | LeftOut:
    try:
        recordings = read_recordings(directory)
    except DamagedFileError as error:
        return LeftOut(directory, f"cannot be read: {error}")
    except OSError as error:
        return LeftOut(directory, f"cannot be read: {error.strerror or error}")
    except ValueError:
        return LeftOut(
            directory, "holds events, but none of gradguard: train with GRADGUARD=1"
        )
    whole = {
        optimizer: recording
        for optimizer, recording in recordings.items()
        if recording.records.before.size
    }
    return whole or LeftOut(directory, "holds no optimizer step")


def _is_below_its_run(directory: str, others: set[str]) -> bool:
    """Whether a directory is one of the two with scalars that the writer puts below a run."""
    run, name = os.path.split(directory)
    return name in (BEFORE_RUN, AFTER_RUN) and run in others


def _found(path: str | Path) -> Tree:
    place = located(path)
    try:
        _require_directory(place)
        found = tree(place)
    except ConfigError:
        raise
    except Exception as error:  # whatever the file system behind a URL raises
        raise ConfigError(f"{path} cannot be read: {error}") from None
    if not found.files:
        raise ConfigError(
            f"{path} holds no events: expected the directory of a run that was trained "
            "with GradGuard and a TensorBoardLogger, or one above it"
        )
    return found


def _require_directory(place: str) -> None:
    if not exists(place):
        raise ConfigError(f"{place} does not exist")
    if not is_directory(place):
        raise ConfigError(f"{place} is a file: expected the directory of a run")
    if not is_url(place) and not os.access(place, os.R_OK | os.X_OK):
        raise ConfigError(f"{place} cannot be read: Permission denied")


def _distinct(trees: list[Tree]) -> list[str]:
    """Return the directories of event files, version_2 before version_10.

    The same files are the same run, whatever leads there; it is called by a directory
    that has the files themselves, if there is one, and not links to them.
    """
    called: dict[tuple[str, ...], str] = {}
    linked: set[str] = set()
    for found in trees:
        for directory in sorted(found.files, key=_natural):
            files = found.files[directory]
            run = same_files(files)
            if any(map(os.path.islink, files)):
                linked.add(directory)
            if run not in called or (called[run] in linked and directory not in linked):
                called[run] = directory
    return list(called.values())


def _natural(directory: str) -> list[str | int]:
    parts = re.split(r"(\d+)", directory)
    return [int(part) if part.isdecimal() else part for part in parts]


def _runs(recordings: dict[str, dict[str, Recording]]) -> list[Run]:
    parts = {directory: _parts(directory) for directory in recordings}
    levels = zip(*parts.values(), strict=False)
    common = sum(1 for _ in takewhile(lambda names: len(set(names)) == 1, levels))
    last = max(2, *(len(names) - common for names in parts.values()))
    return [
        Run(
            "/".join(parts[directory][-last:]) + (f" {optimizer}" if optimizer else ""),
            directory,
            optimizer,
            recording,
        )
        for directory, optimizers in recordings.items()
        for optimizer, recording in optimizers.items()
    ]


def _parts(directory: str) -> tuple[str, ...]:
    if not is_url(directory):
        return Path(directory).parts
    return tuple(filter(None, directory.split("/")))
