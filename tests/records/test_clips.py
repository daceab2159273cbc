"""The clip as data: its words, its thresholds, and the schema that holds it."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradguard import AdaptiveClip, AutoClip, ByName, ClipNorm, ClipValue, ZClip
from gradguard.clipping.policy import Policy
from gradguard.clipping.spec import as_data
from gradguard.records.clips import ClipData, by_trainer
from gradguard.records.schema import NewerSchemaError, Schema


class Own:
    """A user's own policy."""

    def clip(self, _gradients: Any, norms: Any, _state: Any) -> Any:
        return norms

    def __repr__(self) -> str:
        return "Own(how='<so>')"


@pytest.mark.parametrize(
    ("policies", "words"),
    [
        ([], ""),
        ([ClipNorm(5.0), ClipValue(1.0)], "ClipNorm(5.0), then ClipValue(1.0)"),
        ([ClipNorm(5.0, per_parameter=True)], "ClipNorm(5.0, per_parameter=True)"),
        (
            [AutoClip(), ZClip(3.0, warmup=9)],
            "AutoClip(10.0), then ZClip(3.0, warmup=9)",
        ),
        ([AdaptiveClip(exclude=("a.*",))], "AdaptiveClip(0.01, exclude=('a.*',))"),
        (
            [ByName({"a.*": ClipNorm(1.0), "*": [ZClip(), ClipValue(2.0)]})],
            "ByName({'a.*': ClipNorm(1.0), '*': [ZClip(2.5), ClipValue(2.0)]})",
        ),
        ([Own(), ClipNorm(5.0)], "Own(how='<so>'), then ClipNorm(5.0)"),
    ],
    ids=str,
)
def test_words_are_the_code(policies: list[Policy], words: str) -> None:
    assert str(as_data(policies)) == words


def test_trainer_s_clip_is_told_as_its_arguments() -> None:
    assert str(by_trainer(5.0, "value")) == (
        "Trainer(gradient_clip_val=5.0, gradient_clip_algorithm='value')"
    )


def test_a_user_s_own_policy_is_of_another_kind() -> None:
    [policy] = as_data([Own()]).policies

    assert (policy.kind, policy.name) == ("other", "Own(how='<so>')")


@pytest.mark.parametrize(
    ("policies", "total", "each"),
    [
        ([], None, None),
        ([ClipNorm(5.0)], 5.0, None),
        ([ClipNorm(5.0), ClipNorm(1.0)], 1.0, None),
        ([ClipNorm(1.0), ClipNorm(5.0)], 1.0, None),
        ([ClipNorm(2.0, per_parameter=True)], None, 2.0),
        ([ClipNorm(5.0), ClipNorm(2.0, per_parameter=True)], 5.0, 2.0),
        ([ZClip(), ClipNorm(3.0)], 3.0, None),
        ([ClipNorm(5.0, norm_type=math.inf)], None, None),
        ([ClipNorm(5.0, norm_type=math.inf), ClipNorm(9.0)], 9.0, None),
        ([ClipValue(1.0)], None, None),
        ([AutoClip()], None, None),
        ([ByName({"rnn.*": ClipValue(10.0), "*": ClipNorm(1.0)})], None, None),
        ([Own()], None, None),
    ],
    ids=str,
)
def test_thresholds_of_the_whole_model(
    policies: list[Policy], total: float | None, each: float | None
) -> None:
    clip = as_data(policies)

    assert (clip.max_norm_of_total, clip.max_norm_of_each) == (total, each)


EACH = ByName(
    {
        "rnn.*": ClipNorm(3.0, per_parameter=True),
        "*.bias": [ClipValue(1.0), ClipNorm(4.0, per_parameter=True)],
        "*": ByName({"head.*": ClipNorm(2.0)}),
    }
)


@pytest.mark.parametrize(
    ("policy", "name", "max_norm"),
    [
        (EACH, "rnn.weight", 3.0),
        (EACH, "rnn.bias", 3.0),  # the first pattern that matches counts
        (EACH, "head.bias", 4.0),
        (EACH, "head.weight", None),  # the joint norm of several
        (ClipNorm(2.0, per_parameter=True), "any", 2.0),
        (ClipNorm(2.0), "any", None),
    ],
)
def test_threshold_of_one_parameter(
    policy: Policy, name: str, max_norm: float | None
) -> None:
    assert as_data([policy]).max_norm_of(name) == max_norm


def test_trainer_s_norm_is_a_threshold_and_its_value_none() -> None:
    clips = [by_trainer(5.0, algorithm) for algorithm in ("norm", "value")]

    assert [clip.max_norm_of_total for clip in clips] == [5.0, None]


numbers = st.floats(1e-3, 1e3)
simple = st.one_of(
    st.builds(
        ClipNorm,
        numbers,
        per_parameter=st.booleans(),
        norm_type=st.sampled_from([2.0, math.inf]),
    ),
    st.builds(ClipValue, numbers),
    st.builds(AutoClip, st.floats(1, 100), history=st.integers(1, 9)),
    st.builds(ZClip, numbers, warmup=st.integers(2, 99)),
    st.builds(AdaptiveClip, numbers, exclude=st.tuples(st.text())),
    st.builds(Own),
)
policies = st.recursive(
    simple, lambda inner: st.builds(ByName, st.dictionaries(st.text(), inner))
)


@given(clip=st.lists(policies, max_size=3).map(as_data), names=st.lists(st.text()))
def test_schema_comes_back_as_it_was(clip: ClipData, names: list[str]) -> None:
    schema = Schema(tuple(names), "optimizer_1", clip, ("free",))

    read = Schema.decode(schema.encode())

    assert (read, read.suffix) == (schema, schema.suffix)
    assert hash(read) == hash(schema)


def test_number_of_numpy_is_written_as_a_number() -> None:
    clip = as_data([ClipNorm(np.float64(0.5))])

    assert json.loads(json.dumps(clip.to_json()))["policies"][0]["number"] == 0.5


def test_schema_of_a_later_version_is_refused() -> None:
    with pytest.raises(
        NewerSchemaError, match="is of format 3, and this gradguard reads up to 2"
    ):
        Schema.decode(b'{"version": 3, "sense": "another"}')


def test_field_that_was_added_later_is_passed_over() -> None:
    fields = json.loads(Schema(("a",), clip=as_data([ZClip()])).encode())

    schema = Schema.decode(json.dumps({**fields, "more": 1}).encode())

    assert schema == Schema(("a",), clip=as_data([ZClip()]))
