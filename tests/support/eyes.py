"""How far apart two colours look, to every kind of eye.

Machado, Oliveira and Fernandes, A Physiologically-based Model for Simulation of Color
Vision Deficiency, 2009 (severity 1.0), over linear sRGB; the distance is CIE76 over CIELAB
at D65. About 2 is just seen, 25 is seen at a glance.
"""

import re

import numpy as np
from numpy.typing import NDArray

Color = NDArray[np.float64]

EYES = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
}

_TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
_WHITE = _TO_XYZ @ np.ones(3)


def color(text: str) -> Color:
    """Return "#rrggbb" as sRGB, 0 to 1."""
    assert re.fullmatch("#[0-9a-f]{6}", text), text
    return np.array([int(text[i : i + 2], 16) / 255 for i in (1, 3, 5)])


def ramp(stops: list[Color], count: int = 101) -> list[Color]:
    """Return a scale between evenly spaced stops, straight lines in sRGB, as Plotly's."""
    at = np.linspace(0, len(stops) - 1, count)
    channels = np.array(stops).T
    return list(np.array([np.interp(at, range(len(stops)), one) for one in channels]).T)


def distance(a: Color, b: Color, eye: str) -> float:
    """Return how far apart two colours look to an eye of `EYES`."""
    return float(np.linalg.norm(_lab(a, eye) - _lab(b, eye)))


def _lab(seen: Color, eye: str) -> Color:
    linear = np.where(seen <= 0.04045, seen / 12.92, ((seen + 0.055) / 1.055) ** 2.4)
    xyz = _TO_XYZ @ np.clip(EYES[eye] @ linear, 0, 1) / _WHITE
    small = (6 / 29) ** 3
    f = np.where(xyz > small, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])
