"""What to do about a finding: a line of code with its number, and where that is from."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from gradguard.health.finding import Finding
from gradguard.health.threshold import suggest
from gradguard.records.clips import NORM, OURS, ClipData
from gradguard.records.recording import Recording

_REPLAY = "gradguard replay "


class Remedy(NamedTuple):
    """What to do.

    Attributes:
        do: A line of code to copy; "" where none is known.
        advice: Where its number is from, or what to try, in words.
        command: A command that runs the bad step again; "" where none was saved.
        max_norm: The largest norm that the line lets through; None if it is about none.
    """

    do: str
    advice: str
    command: str
    max_norm: float | None = None


def remedy(
    recording: Recording,
    of: Sequence[Finding],
    optimizer: str,
    all_found: Sequence[Finding],
) -> Remedy:
    """Return what to do about findings of one cause, the first the worst.

    Args:
        recording: Whose findings.
        of: Those of the cause.
        optimizer: Its name where the run has several.
        all_found: Everything found in the run.
    """
    head = of[0]
    lines = [one.command for one in of if one.command]
    command = next((line for line in lines if line.startswith(_REPLAY)), "")
    if not head.serious:
        return Remedy("", head.advice, command)
    if _calls_for_a_clip(of):
        suggestion = suggest(recording, found=all_found)
        if suggestion.max_norm is not None:
            clip = recording.clips[-1].clip
            do = clip_line(suggestion.max_norm, clip, optimizer=optimizer)
            return Remedy(do, suggestion.short, command, suggestion.max_norm)
    guard = next((line for line in lines if not line.startswith(_REPLAY)), "")
    return Remedy(guard, head.advice, command)


def clip_line(max_norm: float, today: ClipData, *, optimizer: str = "") -> str:
    """Return the line that clips at a norm, for whoever clips today.

    Of several optimizers the Trainer clips none; whose clip is by value has to be told
    that a norm is meant.

    Examples:
        >>> clip_line(2.3, ClipData())
        'Trainer(gradient_clip_val=2.3)'
    """
    if today.by == OURS or optimizer:
        return f"GradGuard(clip=ClipNorm({max_norm:g}))"
    by_value = any(policy.kind != NORM for policy in today.policies)
    algorithm = ', gradient_clip_algorithm="norm"' * by_value
    return f"Trainer(gradient_clip_val={max_norm:g}{algorithm})"


def _calls_for_a_clip(of: Iterable[Finding]) -> bool:
    return any(
        one.serious
        and one.kind != "spike"
        and one.under_clip in ("prevented", "perhaps prevented", "bounded")
        for one in of
    )
