"""The table of policies says what their classes say."""

import ast
from dataclasses import MISSING, fields
from pathlib import Path
from pkgutil import resolve_name

import pytest

import gradguard
from gradguard import AdaptiveClip, AutoClip, ByName, ClipNorm, ClipValue, ZClip
from gradguard.clipping.policy import Policy
from gradguard.clipping.spec import (
    POLICIES,
    either,
    make,
    make_by_name,
    parse,
    parse_named,
)

every_kind = pytest.mark.parametrize("kind", POLICIES)


@every_kind
def test_row_has_the_fields_of_its_class(kind: str) -> None:
    row = POLICIES[kind]

    names = [field.name for field in fields(resolve_name(row.policy))]

    assert names == [row.number, *row.options]


@every_kind
def test_row_has_the_defaults_of_its_class(kind: str) -> None:
    row = POLICIES[kind]
    number, *options = fields(resolve_name(row.policy))

    assert number.default == (MISSING if row.default is None else row.default)
    assert {field.name: field.default for field in options} == row.options


@every_kind
def test_number_above_the_largest_is_refused_by_the_class(kind: str) -> None:
    largest = POLICIES[kind].at_most
    if largest is not None:
        make(kind, largest)
        with pytest.raises(ValueError, match=POLICIES[kind].number):
            make(kind, largest + 1)


@every_kind
def test_example_is_read(kind: str) -> None:
    assert parse(POLICIES[kind].example)[0] == kind


@pytest.mark.parametrize(
    ("kind", "policy"),
    [
        ("norm", ClipNorm(2.0)),
        ("value", ClipValue(2.0)),
        ("auto", AutoClip(2.0)),
        ("zclip", ZClip(2.0)),
        ("agc", AdaptiveClip(2.0)),
    ],
)
def test_policy_is_made_of_its_kind_and_number(kind: str, policy: Policy) -> None:
    assert make(kind, 2.0) == policy


def test_policy_is_made_with_its_other_fields() -> None:
    assert make("zclip", 3.0, warmup=9) == ZClip(3.0, warmup=9)


def test_policies_by_name_are_made() -> None:
    assert make_by_name({"a": [ZClip()]}) == ByName({"a": ZClip()})


@pytest.mark.parametrize(
    ("text", "read"), [("norm:5", ("norm", "5")), (" zclip : 3 ", ("zclip", "3"))]
)
def test_flag_is_read(text: str, read: tuple[str, str]) -> None:
    assert parse(text) == read


@pytest.mark.parametrize("text", ["norm", "norm:", "zcilp", "zclip:", ""])
def test_flag_that_is_no_policy_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expects norm:NUMBER, .*zclip\[:NUMBER\]"):
        parse(text)


def test_pattern_may_hold_an_equals_sign() -> None:
    assert parse_named("a=b*=auto:5") == ("a=b*", "auto", "5")


def test_flag_without_a_pattern_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expects PATTERN=POLICY .* got 'norm:5'"):
        parse_named("norm:5")


def test_alternatives_are_told() -> None:
    assert [either(["a"]), either(["a", "b"]), either("abc")] == [
        "a",
        "a or b",
        "a, b or c",
    ]


def test_type_checkers_see_every_public_name() -> None:
    assert gradguard.__file__ is not None
    body = ast.parse(Path(gradguard.__file__).read_text()).body
    [checked] = [node for node in body if isinstance(node, ast.If)]

    names = [
        alias.asname
        for node in checked.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]

    assert sorted([*filter(None, names), "__version__"]) == sorted(gradguard.__all__)
