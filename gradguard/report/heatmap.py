"""A recording in, its norms by parameter and step as colours out."""

import base64
import struct
import zlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gradguard.health.verdict import Verdict
from gradguard.records.bins import bin_starts
from gradguard.records.recording import Recording
from gradguard.records.records import Doubles, Records

Pixels = NDArray[np.uint8]

# Wider than this no picture is drawn; of each bin of steps the largest norm is.
_MOST_COLUMNS = 480

# More rows than that are told apart by no label.
MOST_LABELS = 40

# Colours are told apart over so many decades on both sides of what is usual.
_DECADES = 3.0

# A run whose first bad step comes so early is shown up to twice that step.
_EARLY = 1 / 3

# From far below what is usual to far above it, and NaN; told apart by all eyes.
_SCALE = np.array(
    [[5, 48, 97], [67, 147, 195], [247, 247, 247], [214, 96, 77], [103, 0, 31]], float
)
_NAN = (0, 0, 0)
_MISSING = (190, 190, 190)

# Where layers differ from one another, each is to be seen beside the others.
_ABSOLUTE = ("vanishing", "exploding-at-init", "collapsed", "dead")


@dataclass(frozen=True)
class Heatmap:
    """Colours, a row for each parameter.

    Attributes:
        pixels: `[P, B, 3]`, red, green and blue.
        names: Of the rows.
        first_step: Of the first column.
        last_step: Of the last column.
        relative: Whether a norm is compared with its own median, else with that of all.
    """

    pixels: Pixels
    names: tuple[str, ...]
    first_step: int
    last_step: int
    relative: bool

    @property
    def caption(self) -> str:
        """What the colours say."""
        usual = "its parameter's median" if self.relative else "the median of all"
        return (
            f"Norm before clipping, steps {self.first_step} to {self.last_step}: "
            f"blue x 1/1000 of {usual}, red x 1000; black not finite."
        )

    @property
    def png(self) -> str:
        """The picture as the content of a `src` attribute."""
        return "data:image/png;base64," + base64.b64encode(_png(self.pixels)).decode()


def heatmap(recording: Recording, said: Verdict) -> Heatmap:
    """Return the norms before clipping, in the view that shows what the verdict is about."""
    records = _in_view(recording.records, said)
    relative = said.worst is None or said.worst.kind not in _ABSOLUTE
    decades = _decades(records.before, records.missing, relative=relative)
    starts = bin_starts(len(records.steps), _MOST_COLUMNS)
    largest = np.maximum.reduceat(decades, starts).T  # NaN is larger than any norm
    pixels = _colors(largest)
    pixels[np.isneginf(largest)] = _MISSING
    first, last = int(records.steps[0]), int(records.steps[-1])
    return Heatmap(pixels, records.names, first, last, relative)


def narrowed(picture: Heatmap, names: list[str]) -> Heatmap:
    """Return the rows of some parameters only."""
    rows = [place for place, name in enumerate(picture.names) if name in set(names)]
    kept = tuple(picture.names[row] for row in rows)
    return replace(picture, pixels=picture.pixels[rows], names=kept)


def _in_view(records: Records, said: Verdict) -> Records:
    """Return the steps up to twice the first bad one, if that came early."""
    bad = np.flatnonzero(records.nonfinite)
    if said.worst and len(bad) and bad[0] < _EARLY * len(records.steps):
        return records[: max(2 * int(bad[0]), 2)]
    return records


def _decades(
    before: NDArray[np.float32], missing: NDArray[np.bool_], *, relative: bool
) -> Doubles:
    """Return log10 of norms over what is usual, `[S, P]`: -Inf where there is none."""
    positive = np.where(np.isfinite(before) & (before > 0), before, np.nan)
    with np.errstate(divide="ignore"):
        logs = np.log10(before.astype(np.float64))
    logs[~np.isfinite(before)] = np.nan
    logs[np.isneginf(logs)] = -_DECADES * 2  # a norm of zero
    usual = _medians(positive) if relative else np.nanmedian(_known(positive))
    scaled = logs - np.log10(usual)
    scaled[missing] = -np.inf
    return np.asarray(scaled)


def _medians(positive: NDArray[np.floating]) -> Doubles:
    """Return each column's median, 1 where there is none."""
    known = ~np.isnan(positive).all(axis=0)
    medians = np.ones(positive.shape[1])
    medians[known] = np.nanmedian(positive[:, known], axis=0)
    return medians


def _known(positive: NDArray[np.floating]) -> NDArray[np.floating]:
    return positive if np.isfinite(positive).any() else np.ones(1)


def _colors(decades: Doubles) -> Pixels:
    places = np.clip(np.nan_to_num(decades, nan=0.0, neginf=0.0), -_DECADES, _DECADES)
    stops = np.linspace(-_DECADES, _DECADES, len(_SCALE))
    channels = [np.interp(places, stops, _SCALE[:, channel]) for channel in range(3)]
    pixels = np.stack(channels, axis=-1).round().astype(np.uint8)
    pixels[np.isnan(decades)] = _NAN
    return pixels


def _png(pixels: Pixels) -> bytes:
    """Return the file of a picture `[H, W, 3]` (the PNG specification, third edition)."""
    height, width, _ = pixels.shape
    rows = np.concatenate(
        [np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], 1
    )
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", header),
            _chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)),
            _chunk(b"IEND", b""),
        ]
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)
