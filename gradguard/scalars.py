"""What a text without quotes stands for, as YAML 1.2 reads it: 010 is ten, `no` is a word.

https://yaml.org/spec/1.2.2/#103-core-schema
"""

import re

Scalar = bool | int | float | str | None

NULL = re.compile(r"(?:~|null|Null|NULL|)\Z")
BOOLEAN = re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")
INTEGER = re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z")
FLOAT = re.compile(
    r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
)

_GROUPED = re.compile(r"[-+]?[0-9]+(?:_[0-9]+)+\Z")
_BASES = {"0o": 8, "0x": 16}
_SWITCHES = {
    "true": True, "yes": True, "on": True, "1": True,
    "false": False, "no": False, "off": False, "0": False,
}  # fmt: skip


def read(text: str) -> Scalar:
    """Return the null, boolean, integer or float that a text stands for, or the text.

    Examples:
        >>> [read(text) for text in ("010", "0o10", "1e-3", "1:30", "no", "2026-01-31")]
        [10, 8, 0.001, '1:30', 'no', '2026-01-31']
    """
    if NULL.match(text):
        return None
    if BOOLEAN.match(text):
        return text.lower() == "true"
    if INTEGER.match(text):
        return int(text, _BASES.get(text[:2], 10))
    if FLOAT.match(text):
        special = text.lower().replace(".inf", "inf").replace(".nan", "nan")
        return float(special)
    return text


def number(text: str) -> int | float | None:
    """Return the number that a text stands for where one is asked for, 1_000 too.

    None if it stands for none.

    Examples:
        >>> number("1_000"), number("1:30")
        (1000, None)
    """
    found = read(text.replace("_", "") if _GROUPED.match(text) else text)
    return None if isinstance(found, (bool, str)) else found


def switch(text: str) -> bool | None:
    """Return what a text says where yes or no is asked for; None if it says neither.

    Examples:
        >>> switch("Off"), switch(" 1"), switch("maybe")
        (False, True, None)
    """
    return _SWITCHES.get(text.strip().lower())
