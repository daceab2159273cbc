"""Findings about the clip: there is none, it never fires, always, or in vain."""

from collections.abc import Iterable

from gradguard.health.finding import Finding
from gradguard.health.steps import updates
from gradguard.health.words import share
from gradguard.records.recording import Recording
from gradguard.records.records import Records

# Share of steps from which on a clip fires always, and steps it takes to say so.
_ALWAYS = 0.99
_STEPS = 10


def clipping(recording: Recording, found: Iterable[Finding]) -> Finding | None:
    """Judge the clip by how often it fired and by what else was found.

    Args:
        recording: Whose clip.
        found: What the other rules found.
    """
    records = updates(recording.records)
    if not len(records.steps):
        return None
    serious = [finding for finding in found if finding.serious]
    sick = [finding for finding in serious if finding.under_clip == "prevented"]
    text = recording.clipping
    if not any(clip.text for clip in recording.clips):
        to_try = any(
            one.under_clip in ("prevented", "perhaps prevented") for one in serious
        )
        return None if records.clipped.any() else _unclipped(records, to_try)
    if sick:
        return _too_high(records, text, sick)
    if not records.clipped.any():
        return _never(records, text)
    rare = records.clip_fraction < _ALWAYS or len(records.steps) < _STEPS
    return None if rare else _always(records, text)


def _unclipped(records: Records, to_try: bool) -> Finding:
    return Finding(
        "unclipped",
        "warning" if to_try else "note",
        f"Clipping configured: none; steps clipped: {share(records.clipped)}.",
        "Clip: GradGuard(clip=ClipNorm(...)), or gradient_clip_val of the Trainer."
        if to_try
        else "Nothing to do: no finding calls for a clip.",
        numbers={"clip_fraction": 0.0},
    )


def _too_high(records: Records, text: str, sick: list[Finding]) -> Finding:
    kinds = " and ".join(dict.fromkeys(finding.kind for finding in sick))
    return Finding(
        "clip-too-high",
        "warning",
        f"{text} fired on {share(records.clipped)}, and the run is yet {kinds}."
        if kinds != "overshoot"
        else f"{text} fired on {share(records.clipped)}, and the loss yet overshot.",
        "Lower the threshold: the best one was about 1 % of the first total in the "
        "bundled experiments.",
        sick[0].step,
        numbers={"clip_fraction": records.clip_fraction},
    )


def _never(records: Records, text: str) -> Finding:
    return Finding(
        "clip-never",
        "note",
        f"Clipping configured: {text}; steps clipped: {share(records.clipped)}. The "
        f"largest total before is {records.total_before.max():.3g}.",
        "Nothing to do: the clip is an insurance that was not needed.",
        numbers={"clip_fraction": 0.0},
    )


def _always(records: Records, text: str) -> Finding:
    smallest = float(records.coefficient.min())
    return Finding(
        "clip-always",
        "note",
        f"{text} fired on {share(records.clipped)}, down to {smallest:.2g} of the "
        "total.",
        "The clip sets the length of every step, as a learning rate does. If the loss is "
        "stuck, raise the threshold, or scale the targets or the loss.",
        numbers={
            "clip_fraction": records.clip_fraction,
            "smallest_coefficient": smallest,
        },
    )
