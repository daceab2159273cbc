"""Where event files are: in directories of this machine, and behind the URLs of fsspec.

Places are texts throughout: a `Path` would make `memory:/logs` of `memory://logs`.
"""

import errno
import os
import re
import shutil
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

# What every event file has in its name, whatever else; TensorBoard asks for no more.
_EVENTS = "tfevents"

_URL = re.compile(r"[a-z][\w+.-]*(::[a-z][\w+.-]*)*://", re.IGNORECASE | re.ASCII)
_LOCAL = re.compile(r"(file|local)://", re.IGNORECASE)


def is_url(place: str) -> bool:
    """Return whether a place is reached by fsspec, as of `memory://` or `s3://`."""
    return bool(_URL.match(place))


def located(path: str | Path) -> str:
    """Return a place as all of its readers take it: `~` and `file://` resolved.

    Examples:
        >>> located("memory://logs/"), located("file:///tmp/runs")
        ('memory://logs', '/tmp/runs')
    """
    place = os.fspath(path)
    if _LOCAL.match(place):
        return _system(place)[1]
    if is_url(place):
        return place.rstrip("/") if not place.endswith("://") else place
    return os.path.expanduser(place)  # noqa: PTH111 (a URL is no Path)


def below(place: str, name: str) -> str:
    """Return what is called `name` in a place."""
    return f"{place.rstrip('/')}/{name}" if is_url(place) else os.path.join(place, name)  # noqa: PTH118 (a URL is no Path)


def require_room(directory: str, size: int) -> None:
    """Do nothing if so many bytes can be written to a directory; at a URL, nothing at all.

    To be asked ahead of a writer that works in a thread, which does not outlive a failure.

    Raises:
        OSError: If the directory is gone or its disk is full.
    """
    if not is_url(directory) and shutil.disk_usage(directory).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), directory)


def opened(file: str) -> BinaryIO:
    """Return a file, open to be read."""
    if not is_url(file):
        return Path(file).open("rb")
    system, path = _system(file)
    return cast("BinaryIO", system.open(path, "rb"))


def event_files(directory: str) -> list[str]:
    """Return the event files of a directory by name; none where there is no directory.

    Links to files are files.
    """
    if is_url(directory):
        return _remote(directory, depth=1).get(directory, [])
    if not is_directory(directory):
        return []
    return _events_among(list(os.scandir(directory)))


class Tree(NamedTuple):
    """What is below a place.

    Attributes:
        files: By directory, the event files in it; no directory twice.
        closed: Directories that cannot be read, and why not.
    """

    files: dict[str, list[str]]
    closed: dict[str, OSError]


def tree(place: str) -> Tree:
    """Return the directories of event files at or below a place, through links too.

    A directory that several links lead to is found once: by its own name if that is
    below the place, too. Links in a circle end where they began.
    """
    return Tree(_remote(place), {}) if is_url(place) else _walked(place)


def same_files(files: list[str]) -> tuple[str, ...]:
    """Return what identifies event files, by whatever links they are reached."""
    return tuple(
        file if is_url(file) else os.path.realpath(file) for file in sorted(files)
    )


def _walked(place: str) -> Tree:
    found = Tree({}, {})
    seen: set[str] = set()
    # Directories before links: what is there in its own right is called by its own name.
    directories, links = deque([os.path.abspath(place)]), deque[str]()  # noqa: PTH100 (as it is called, links and all)
    while directories or links:
        directory = (directories or links).popleft()
        real = os.path.realpath(directory)
        if real in seen:
            continue
        seen.add(real)
        try:
            entries = list(os.scandir(directory))
        except OSError as error:
            found.closed[directory] = error
            continue
        if files := _events_among(entries):
            found.files[directory] = files
        for entry in entries:
            if _is(entry.is_dir):
                (links if entry.is_symlink() else directories).append(entry.path)
    return found


def _events_among(entries: "list[os.DirEntry[str]]") -> list[str]:
    return sorted(
        entry.path for entry in entries if _EVENTS in entry.name and _is(entry.is_file)
    )


def _is(kind: Callable[[], bool]) -> bool:
    """Whether an entry is of a kind; links that lead nowhere, or in circles, are of none."""
    try:
        return kind()
    except OSError:
        return False


def _remote(url: str, depth: int | None = None) -> dict[str, list[str]]:
    system, root = _system(url)
    found: dict[str, list[str]] = {}
    for path in sorted(system.find(root, maxdepth=depth)):
        directory, _, name = path.rpartition("/")
        if _EVENTS in name:
            place = url + directory[len(root.rstrip("/")) :]
            found.setdefault(place, []).append(below(place, name))
    return found


def exists(place: str) -> bool:
    """Return whether there is anything at a place."""
    if not is_url(place):
        return Path(place).exists()
    system, path = _system(place)
    return bool(system.exists(path))


def is_directory(place: str) -> bool:
    """Return whether a place can hold others."""
    if not is_url(place):
        return Path(place).is_dir()
    system, path = _system(place)
    return bool(system.isdir(path))


def _system(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs  # noqa: PLC0415 (most runs are on this machine)

    return cast("tuple[Any, str]", url_to_fs(url))
