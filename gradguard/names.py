"""Names and sizes in sentences: a few of many, and those that may have been meant."""

import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher

_MOST = 3

# What wrappers put into the names of the parameters below them.
_WRAPPERS = re.compile(r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


def named(names: Sequence[str]) -> str:
    """Return a few names in words, and how many more there are.

    Examples:
        >>> named(["a", "b"]), named(["a", "b", "c", "d", "e"])
        ('a and b', 'a, b, c and 2 more')
    """
    if len(names) > _MOST:
        return f"{', '.join(names[:_MOST])} and {len(names) - _MOST} more"
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def nearest(word: str, names: Iterable[str]) -> str:
    """Return the name most like the word; above all one that ends in the same part.

    Examples:
        >>> nearest("depth", ["model.width", "model.depth"])
        'model.depth'
    """
    return by_likeness(word, names)[0]


def by_likeness(word: str, names: Iterable[str]) -> list[str]:
    """Return all the names, the one most like the word first, as `nearest` has it."""
    last = word.rpartition(".")[2]
    matcher = SequenceMatcher(b=word)

    def likeness(name: str) -> tuple[bool, float]:
        matcher.set_seq1(name)
        return name.rpartition(".")[2] == last, matcher.ratio()

    return sorted(names, key=likeness, reverse=True)


def unwrapped(name: str) -> str:
    """Return a parameter's name without what wrappers have put into it.

    Examples:
        >>> unwrapped("encoder._orig_mod.weight")
        'encoder.weight'
    """
    return _WRAPPERS.sub("", name)


def said_bytes(number: float) -> str:
    """Return a number of bytes in words.

    Examples:
        >>> said_bytes(512), said_bytes(3 * 2**20), said_bytes(5.25 * 2**30)
        ('512 bytes', '3.0 MiB', '5.2 GiB')
    """
    for power, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if number >= 2**power:
            return f"{number / 2**power:.1f} {unit}"
    return f"{number:.0f} bytes"
