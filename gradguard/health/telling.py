"""A verdict in, a few lines of plain text out, for terminals and logs."""

import re
import textwrap
from collections.abc import Iterator
from typing import NamedTuple

from gradguard.health.finding import Finding
from gradguard.health.nonfinite import bad_gradients
from gradguard.health.steps import updates
from gradguard.health.verdict import Cause, Verdict
from gradguard.names import named
from gradguard.records.records import Records

# Of a terminal, before what is said is more than a glance.
MOST_LINES = 6

# Of them for what is wrong; for why and what to do the rest is enough.
_MOST_OF_WHAT = 3
_MOST_OF_ADVICE = 2
_ANY = None

_INDENT = " " * 8
_NARROWEST = 30

# Characters of a name that is shown whole.
_LONG = 36
_LONG_NAME = re.compile(rf"[\w.\[\]]{{{_LONG + 6},}}")


class _Block(NamedTuple):
    """Some lines that stand or fall together.

    Attributes:
        lines: What is said.
        needed: Whether a verdict without them would not be one.
    """

    lines: list[str]
    needed: bool = True


def told(
    verdict: Verdict, *, width: int = 80, report: str = "", speaker: str = ""
) -> list[str]:
    """Return a verdict in at most six lines: what, why, what to do, where to read on.

    A line to copy is never broken, however wide it is. A long name is cut at a dot, and
    `*.` stands for what is left out, as in the patterns of `ByName`.

    Args:
        verdict: What is to be said.
        width: Of the terminal, in columns.
        report: The command that says more; "" if there is none.
        speaker: What the first line begins with.
    """
    worst = verdict.worst
    if worst is None:
        notes = _rest(len(verdict.causes), "note")
        more = [f"  See:  {report}  ({notes})"] if notes and report else []
        return [speaker + verdict.text, *more]
    see = [f"  See:  {report}{_others(verdict)}"] if report else []
    blocks = [*_blocks(worst, width, speaker), _Block(see, not worst.command)]
    return list(_fitting(blocks))


def cause_lines(cause: Cause, *, width: int = 80) -> list[str]:
    """Return all there is to say of one cause; its first word is how bad it is."""
    also = ", ".join(map(_in_short, cause.consequences))
    blocks = [
        *_blocks(cause, width, "", whole=True),
        _Block(_labelled("Also", also, width)),
    ]
    return [line for block in blocks for line in block.lines]


def alarm(records: Records, *, loss_known: bool) -> str | None:
    """Return one line on the first update that is not finite; None if all are.

    Args:
        records: Steps as they come.
        loss_known: Whether a NaN stands for a loss, and not for one that nobody told.
    """
    applied = updates(records)
    if not applied.nonfinite.any():
        return None
    row = int(applied.nonfinite.argmax())
    held, names = bad_gradients(applied, row)
    told_loss = f" (loss {applied.loss[row]:.3g})" if loss_known else ""
    return f"step {applied.steps[row]}: {held} in {named(names)}{told_loss}"


def _blocks(
    cause: Cause, width: int, speaker: str, *, whole: bool = False
) -> Iterator[_Block]:
    """Yield what is wrong, why, what to do, where its number is from, and what to run."""
    what = f"{cause.severity}: {cause.text}"
    most = _ANY if whole else _MOST_OF_WHAT
    yield _Block(_wrapped(what, width, first=speaker, rest="  ", most=most))
    yield _Block(_labelled("Why", cause.why, width), needed=False)
    if cause.do:
        yield _Block([f"  Do:   {cause.do}"])
        yield _Block(_labelled("", cause.advice, width), needed=False)
    else:
        most = _ANY if whole else _MOST_OF_ADVICE
        yield _Block(_labelled("Do", cause.advice, width, most=most))
    yield _Block([f"  Run:  {cause.command}"] if cause.command else [])


def _in_short(finding: Finding) -> str:
    """Return a finding's kind, and its step if it has one."""
    return finding.kind + (
        f" at step {finding.step}" if finding.step is not None else ""
    )


def _labelled(label: str, text: str, width: int, most: int | None = None) -> list[str]:
    first = f"  {label + ':' * bool(label):<6}"
    return _wrapped(text, width, first=first, rest=_INDENT, most=most) if text else []


def _wrapped(
    text: str, width: int, *, first: str, rest: str, most: int | None
) -> list[str]:
    return textwrap.wrap(
        short_names(text),
        max(width, _NARROWEST),
        max_lines=most,
        placeholder=" ...",
        initial_indent=first,
        subsequent_indent=rest,
        break_on_hyphens=False,
        break_long_words=False,
    )


def short_names(text: str) -> str:
    """Return a text with its long names cut at a dot, `*.` for what is left out."""
    return _LONG_NAME.sub(lambda name: _shortened(name[0]), text)


def _shortened(name: str) -> str:
    """Return the last parts of a name behind `*.`, as many as are short together.

    Examples:
        >>> _shortened("model.backbone.encoder.blocks.7.self_attn.out_proj.weight")
        '*.blocks.7.self_attn.out_proj.weight'
    """
    *parts, shown = name.split(".")
    while parts and len(parts[-1]) + len(shown) < _LONG:
        shown = f"{parts.pop()}.{shown}"
    return f"*.{shown}" if parts else shown


def _fitting(blocks: list[_Block]) -> Iterator[str]:
    """Yield the lines of what is needed, and of the rest as much as there is room for."""
    room = MOST_LINES - sum(len(block.lines) for block in blocks if block.needed)
    for block in blocks:
        if block.needed:
            yield from block.lines
        elif len(block.lines) <= room:
            room -= len(block.lines)
            yield from block.lines


def _others(verdict: Verdict) -> str:
    """Return how much more there is to read, in brackets."""
    others = [one.severity for one in verdict.causes if one is not verdict.worst]
    counts = (
        _rest(others.count(severity), severity)
        for severity in ("error", "warning", "note")
    )
    told_counts = ", ".join(filter(None, counts))
    return f"  ({told_counts} more)" if told_counts else ""


def _rest(count: int, word: str) -> str:
    return f"{count} {word}{'s' * (count != 1)}" if count else ""
