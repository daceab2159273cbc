"""Where a report is written to."""

from pathlib import Path

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
    path = Path(text)
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
