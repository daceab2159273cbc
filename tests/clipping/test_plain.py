"""What policies are made of: Python's own numbers and tuples, wherever these come from."""

import copy
import math
import pickle
import sys
from collections.abc import Callable
from fractions import Fraction
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from gradguard import AdaptiveClip, AutoClip, ByName, ClipNorm, ClipValue, ZClip
from gradguard.clipping.policy import Policy, in_order
from gradguard.clipping.spec import POLICIES, as_data, make


@pytest.mark.parametrize(
    "number",
    [
        5, 5.0, np.float32(5), np.float64(5), np.int64(5), np.array(5.0),
        torch.tensor(5.0), torch.tensor(5), torch.nn.Parameter(torch.tensor(5.0)),
        Fraction(5),
    ],
    ids=lambda number: type(number).__name__,
)  # fmt: skip
@pytest.mark.parametrize("kind", POLICIES)
def test_every_kind_of_number_is_kept_as_python_s_own(kind: str, number: Any) -> None:
    policy = make(kind, number)

    assert type(getattr(policy, POLICIES[kind].number)) in (int, float)
    assert policy == make(kind, 5.0)
    assert pickle.loads(pickle.dumps(policy)) == copy.deepcopy(policy) == policy


@pytest.mark.parametrize(
    "number", ["5", True, None, 5j, [5.0], np.array([5.0])], ids=repr
)
@pytest.mark.parametrize("kind", POLICIES)
def test_what_is_no_number_is_refused_by_name(kind: str, number: Any) -> None:
    field = POLICIES[kind].number

    with pytest.raises(ValueError, match=f"{field} must be a number, got "):
        make(kind, number)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: AutoClip(history=2.5), "history must be a whole number, got 2.5"),  # type: ignore[arg-type]  # the mistake
        (
            lambda: ZClip(warmup=math.inf),  # type: ignore[arg-type]  # the mistake
            "warmup must be a whole number, got inf",
        ),
        (
            lambda: ClipNorm(1.0, per_parameter="false"),  # type: ignore[arg-type]  # the mistake
            "per_parameter must be True or False, got 'false'",
        ),
        (
            lambda: AdaptiveClip(exclude="head.*"),  # type: ignore[arg-type]  # the mistake
            "exclude must be a sequence of patterns .* got 'head",
        ),
        (
            lambda: AdaptiveClip(exclude=5),  # type: ignore[arg-type]  # the mistake
            "exclude must be a sequence of patterns .* got 5",
        ),
    ],
)
def test_option_of_another_type_is_refused_by_name(
    build: Callable[[], Policy], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_patterns_in_a_list_are_kept_as_a_tuple() -> None:
    policy = AdaptiveClip(exclude=["head.*"])  # type: ignore[arg-type]  # as YAML gives it

    assert policy == AdaptiveClip(exclude=("head.*",))
    assert hash(policy) == hash(AdaptiveClip(exclude=("head.*",)))


@pytest.mark.parametrize("clip", ["norm", {"norm": 5}])
def test_what_only_names_a_policy_is_refused_as_a_whole(clip: Any) -> None:
    with pytest.raises(TypeError, match=f"a sequence of them, got {clip!r}"):
        in_order(clip)


NORM = {"_target_": "gradguard.ClipNorm", "max_norm": "${max_norm}"}
AGC = {"_target_": "gradguard.AdaptiveClip", "exclude": ["head.*"]}
NAMED = {"_target_": "gradguard.ByName", "policies": {"head.*": [NORM, AGC], "*": NORM}}
BY_NAME = ByName(
    {"head.*": [ClipNorm(0.1), AdaptiveClip(exclude=("head.*",))], "*": ClipNorm(0.1)}
)


@pytest.mark.parametrize("convert", ["none", "partial", "object", "all"])
@pytest.mark.parametrize(
    ("config", "clip"),
    [
        (NORM, ClipNorm(0.1)),
        ([NORM], [ClipNorm(0.1)]),
        (AGC, AdaptiveClip(exclude=("head.*",))),
        (NAMED, BY_NAME),
        ([AGC, NAMED], [AdaptiveClip(exclude=("head.*",)), BY_NAME]),
        (
            {"_target_": "gradguard.ByName", "policies": {"*": NAMED}},
            ByName({"*": BY_NAME}),
        ),
    ],
    ids=["one", "list", "patterns", "by name", "by name in a list", "nested"],
)
def test_hydra_s_policies_are_those_of_python(
    config: Any, clip: Any, convert: str
) -> None:
    utils = pytest.importorskip("hydra.utils")
    omegaconf = pytest.importorskip("omegaconf")
    guard = {"_target_": "gradguard.GradGuard", "_convert_": convert, "clip": config}
    settings = omegaconf.OmegaConf.create({"max_norm": 0.1, "guard": guard})

    made = utils.instantiate(settings.guard)

    assert made.policies == in_order(clip)
    assert as_data(made.policies) == as_data(in_order(clip))
    assert pickle.loads(pickle.dumps(made.policies)) == copy.deepcopy(made.policies)


def test_configs_of_omegaconf_are_taken_as_what_they_are() -> None:
    omegaconf = pytest.importorskip("omegaconf")
    made = omegaconf.OmegaConf.create({"exclude": ["head.*", "rnn.*"]})

    assert AdaptiveClip(exclude=made.exclude).exclude == ("head.*", "rnn.*")
    wrapped = omegaconf.ListConfig(
        [ClipValue(1.0), BY_NAME], flags={"allow_objects": True}
    )
    assert in_order(wrapped) == (ClipValue(1.0), BY_NAME)


def test_omegaconf_that_another_thread_is_importing_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "omegaconf", ModuleType("omegaconf"))

    assert ClipNorm(5.0).max_norm == 5.0
