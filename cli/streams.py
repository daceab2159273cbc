"""Standard output and error that outlast their reader and take every name."""

import sys
from errno import EINVAL, EPIPE
from io import BufferedWriter, FileIO, TextIOWrapper
from typing import Any

from typing_extensions import override


class _Lasting(FileIO):
    """Drops what nobody can read any more, so that a command still does its work.

    Attributes:
        reason: Why something was lost, where somebody may miss it; a reader that has
            read enough, as `head`, misses nothing.
    """

    reason: str | None = None

    @override
    def write(self, data: Any, /) -> int | None:  # type: ignore[override]  # any bytes
        try:
            return super().write(data)
        except OSError as error:
            # Windows says so of a pipe whose reader is gone.
            gone = {EPIPE, EINVAL} if sys.platform == "win32" else {EPIPE}
            if error.errno not in gone:
                self.reason = error.strerror
            return memoryview(data).nbytes


def outlast_readers() -> None:
    """Let what is printed never raise: neither where the encoding lacks a letter, nor at `| head`.

    Such a letter is printed as Python's `ascii` writes it.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if type(stream) is not TextIOWrapper:  # closed, or somebody else's
            continue
        raw = getattr(stream.buffer, "raw", stream.buffer)
        if type(raw) is not FileIO:  # a console of Windows
            stream.reconfigure(errors="backslashreplace")
            continue
        stream.flush()
        lasting = _Lasting(raw.fileno(), "wb", closefd=False)
        unbuffered = raw is stream.buffer  # python -u
        replaced = TextIOWrapper(
            lasting if unbuffered else BufferedWriter(lasting),  # as Python does
            encoding=stream.encoding,
            errors="backslashreplace",
            line_buffering=stream.line_buffering,
            write_through=unbuffered,
        )
        setattr(sys, name, replaced)


def lost() -> str | None:
    """Return why standard output could not be written; None if all of it was, or nobody cares."""
    buffer = getattr(sys.stdout, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    if not isinstance(raw, _Lasting):
        return None
    sys.stdout.flush()
    return raw.reason
