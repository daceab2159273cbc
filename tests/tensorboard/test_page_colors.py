"""The colours of the page: each means one thing, to every eye, light and dark."""

import itertools
import re
from importlib.resources import files

import pytest

from tests.support.eyes import EYES, Color, color, distance, ramp

AT_A_GLANCE = 25

RELATIVE = ("far-below", "below", "middle", "above", "far-above")
ABSOLUTE = tuple(f"scale-{i}" for i in range(5))
LINES = tuple(f"line-{i}" for i in range(6))
SEVERITIES = ("error", "warning", "note", "good")

both_themes = pytest.mark.parametrize("theme", ["light", "dark"])
every_eye = pytest.mark.parametrize("eye", EYES)


def palette(theme: str) -> dict[str, Color]:
    """Return the colours of the style sheet by name, the dark ones over the light."""
    style = files("gradguard.tensorboard.page").joinpath("static", "style.css")
    blocks = re.findall(r"^body(\.dark)? \{(.*?)^\}", style.read_text(), re.S | re.M)
    found: dict[str, str] = {}
    for dark, block in blocks:
        if theme == "dark" or not dark:
            found |= dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))
    return {name: color(text) for name, text in found.items()}


@both_themes
@every_eye
@pytest.mark.parametrize("scale", [RELATIVE, ABSOLUTE], ids=["relative", "absolute"])
def test_what_is_not_finite_is_no_color_of_a_scale(
    theme: str, eye: str, scale: tuple[str, ...]
) -> None:
    colors = palette(theme)
    cells = ramp([colors[name] for name in scale])

    nearest = min(distance(colors["nonfinite"], cell, eye) for cell in cells)

    # Light: 46 at least; dark: 36, of the largest norms to deuteranopes.
    assert nearest > AT_A_GLANCE


@both_themes
@every_eye
@pytest.mark.parametrize("scale", [RELATIVE, ABSOLUTE], ids=["relative", "absolute"])
def test_small_and_large_are_apart(
    theme: str, eye: str, scale: tuple[str, ...]
) -> None:
    colors = palette(theme)
    bottom, small, _, large, top = (colors[name] for name in scale)

    # 30 at least, of ten times above and below the median, in the dark.
    assert distance(bottom, top, eye) > AT_A_GLANCE
    assert distance(small, large, eye) > AT_A_GLANCE


@both_themes
@every_eye
def test_compared_runs_are_apart(theme: str, eye: str) -> None:
    colors = palette(theme)
    pairs = itertools.combinations([colors[name] for name in LINES], 2)

    # Light: 31 at least; dark: 33.
    assert min(distance(a, b, eye) for a, b in pairs) > AT_A_GLANCE


@both_themes
@pytest.mark.parametrize("moment", ["before", "after"])
def test_before_and_after_have_their_colors_to_themselves(
    theme: str, moment: str
) -> None:
    colors = palette(theme)
    others = [
        colors[name]
        for name in (*LINES, *SEVERITIES, "nonfinite", "clipped", "skipped", "ink")
    ]
    cells = [
        cell
        for scale in (RELATIVE, ABSOLUTE)
        for cell in ramp([colors[name] for name in scale])
    ]

    nearest = min(
        distance(colors[moment], other, "normal") for other in [*others, *cells]
    )

    assert nearest > AT_A_GLANCE


@both_themes
@every_eye
def test_before_and_after_are_apart(theme: str, eye: str) -> None:
    colors = palette(theme)

    assert distance(colors["before"], colors["after"], eye) > AT_A_GLANCE


@both_themes
@every_eye
def test_what_became_of_a_step_is_seen_at_a_glance(theme: str, eye: str) -> None:
    colors = palette(theme)
    marks = [colors[name] for name in ("clipped", "skipped", "nonfinite", "panel")]

    assert all(
        distance(a, b, eye) > AT_A_GLANCE for a, b in itertools.combinations(marks, 2)
    )
