"""YAML 1.2 in and out: what was typed is what is meant, and a key counts once."""

import re
from collections.abc import Hashable
from typing import Any, ClassVar

import yaml

from gradguard import scalars
from gradguard.errors import ConfigError

_TAG = "tag:yaml.org,2002:"
# In the order of the core schema; the characters that such a text can begin with.
_SCALARS = (
    ("null", scalars.NULL, ["~", "n", "N", ""]),
    ("bool", scalars.BOOLEAN, list("tTfF")),
    ("int", scalars.INTEGER, list("-+0123456789")),
    ("float", scalars.FLOAT, list("-+.0123456789")),
)
_HINTS = {
    "'\\t'": "indent with blanks, not tabs",
    "alias": "put a text that begins with * in quotes",
    "cannot start any token": "put a text that begins with this in quotes",
    "mapping values are not allowed": "put a text with a colon in quotes",
}


def parse(text: str, *, source: str = "value", comments: bool = True) -> Any:
    """Return what a YAML text stands for: 5, 0.001, true, [0, 1], a string, a mapping.

    Args:
        text: The YAML.
        source: What to call the text in an error.
        comments: Whether there may be any; on a command line # is mostly meant as itself.

    Raises:
        ConfigError: If the text is not YAML, or gives a key twice.

    Examples:
        >>> parse("1e-3"), parse("010"), parse("no")
        (0.001, 10, 'no')
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if not comments:
            _require_no_comment(text, node)
        return None if node is None else loader.construct_document(node)
    except _MeantOtherwiseError as mistake:
        raise ConfigError(f"{source} {mistake}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not YAML: {_told(error, text)}") from None
    except ValueError as error:  # a tag that its value does not fit, !!int five
        raise ConfigError(f"{source} is not YAML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{source} is not YAML: it is nested too deeply") from None


def write(value: Any) -> str:
    """Return YAML that `parse` reads back as the value; a mapping has a line a key."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False)


def write_inline(value: Any) -> str:
    """Return YAML in one line that `parse` reads back as the value.

    Examples:
        >>> write_inline([{"norm": 5.0}]), write_inline("010"), write_inline(0.001)
        ('[{norm: 5.0}]', "'010'", '0.001')
    """
    text = yaml.dump(
        [value], Dumper=_Dumper, default_flow_style=True, sort_keys=False, width=2**31
    )
    return text.strip()[1:-1]


class _MeantOtherwiseError(Exception):
    """It is YAML, of which a part would be lost without a word."""


def _require_no_comment(text: str, node: yaml.Node | None) -> None:
    rest = text[node.end_mark.index if node else 0 :].strip()
    if rest.startswith("#"):
        raise _MeantOtherwiseError(
            f"ends in {rest!r}, which YAML takes for a comment: put it in quotes"
        )


def _told(error: yaml.YAMLError, text: str) -> str:
    """Say where and what is wrong, and what to try where that is known."""
    mark: yaml.Mark | None = getattr(error, "problem_mark", None)
    told = getattr(error, "problem", None) or str(error).splitlines()[0]
    context = getattr(error, "context", None) or ""
    if told.startswith("but "):
        told = f"{context}, {told}"
    clues = f"{context} {told}"
    hint = next((f": {hint}" for clue, hint in _HINTS.items() if clue in clues), "")
    where = f"line {mark.line + 1}: " if mark and "\n" in text.strip() else ""
    return f"{where}{told}{hint}"


class _Loader(yaml.SafeLoader):
    """Knows the types of JSON, and `<<`; a date is a text."""

    yaml_constructors: ClassVar[dict[str | None, Any]] = {
        tag: yaml.SafeLoader.yaml_constructors[tag]
        for tag in (f"{_TAG}str", f"{_TAG}seq", f"{_TAG}map", None)
    }

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Not later: `<<` is replaced then by keys that the mapping's own may override.
        node = super().compose_mapping_node(anchor)
        lines: dict[Hashable, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                name, line = self.construct_object(key), key.start_mark.line + 1
                if name in lines:
                    first = lines[name]
                    where = (
                        f"line {line}" if first == line else f"lines {first} and {line}"
                    )
                    raise _MeantOtherwiseError(f"gives {name!r} twice, in {where}")
                lines[name] = line
        return node


def _scalar(loader: _Loader, node: yaml.ScalarNode) -> scalars.Scalar:
    text = loader.construct_scalar(node)
    found = scalars.read(text)
    if isinstance(found, str):
        raise ValueError(f"{text!r} is no {node.tag.removeprefix(_TAG)}")
    return found


class _Dumper(yaml.SafeDumper):
    """Puts in quotes what YAML 1.2, or 1.1, would not read as text."""


def _merge_key(loader: _Loader, node: yaml.ScalarNode) -> str:
    return str(loader.construct_scalar(node))


_Loader.yaml_implicit_resolvers = {}  # those of YAML 1.1
for _name, _pattern, _first in _SCALARS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_TAG + _name, _pattern, _first)
    _Loader.add_constructor(_TAG + _name, _scalar)
_Loader.add_implicit_resolver(f"{_TAG}merge", re.compile(r"<<\Z"), ["<"])
_Loader.add_constructor(f"{_TAG}merge", _merge_key)
