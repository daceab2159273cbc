"""What every command writes: files that can be, JSON that others read, a bar meanwhile."""

import json
import math
import os
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from gradguard.errors import ConfigError

PICTURES = (".png", ".svg", ".pdf")


def writable(
    text: str | None, *, option: str, suffixes: tuple[str, ...]
) -> Path | None:
    """Return the path of a file that can be written; None if none is wanted.

    Args:
        text: The path as it was given; None where the option was not.
        option: Who asks for it.
        suffixes: What its name may end in.

    Raises:
        ConfigError: If its name ends otherwise, or it cannot be written.
    """
    if text is None:
        return None
    path = Path(os.path.expanduser(text))  # noqa: PTH111 (a Path raises without a home)
    if path.suffix.lower() not in suffixes:
        raise ConfigError(
            f"{option} should end in {' or '.join(suffixes)}, got {text!r}"
        )
    if not path.parent.is_dir():
        raise ConfigError(f"{option} {text!r}: {path.parent} is no directory")
    existed = path.exists()
    try:
        # Permission bits lie to root and on read-only disks; the file tells the truth.
        with path.open("ab"):
            pass
    except OSError as error:
        raise ConfigError(
            f"{option} {text!r} cannot be written: {error.strerror}"
        ) from None
    if not existed:
        path.unlink()
    return path


def require_writable(log_dir: Path) -> None:
    """Do nothing if runs can be written below that directory, existing or not.

    Raises:
        ConfigError: If they cannot.
    """
    existing = next(path for path in (log_dir, *log_dir.parents) if path.exists())
    try:
        # Permission bits lie to root and on read-only disks; a file tells the truth.
        with TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise ConfigError(
            f"log_dir '{log_dir}' cannot be written: {error.strerror}"
        ) from None


def as_json(content: Any, *, indent: int | None = None) -> str:
    """Return the content as JSON, with `finite` for what JSON has no number."""
    return json.dumps(finite(content), indent=indent, allow_nan=False)


def finite(value: Any) -> Any:
    """Return the value with what JSON has: None for NaN, text for an infinity.

    NaN stands for "not known"; "Infinity" and "-Infinity" are what Python's `float` and
    JavaScript's `Number` read.

    Examples:
        >>> finite({"norms": (1.5, float("nan"), -float("inf"))})
        {'norms': [1.5, None, '-Infinity']}
    """
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def plain_console(*, stderr: bool = False) -> Console:
    """Return a console that prints every name as it is: no markup, no :smile:."""
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def runs_bar(console: Console) -> Progress:
    """Return a bar that counts runs; it shows nothing where no terminal is."""
    return Progress(
        "runs",
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,  # a bar that is piped leaves an empty line
    )
