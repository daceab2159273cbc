"""Experiments: layers, schema, and the sentences about mistakes."""

import math
import os
import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradguard import Spike
from gradguard.clipping.spec import POLICIES, either
from gradguard.errors import ConfigError
from gradguard.experiments import yaml_text
from gradguard.experiments.build import build
from gradguard.experiments.config import Experiment
from gradguard.experiments.resolve import clip_list, dump, resolve
from gradguard.experiments.yaml_text import parse, write_inline
from gradguard.names import nearest
from gradguard.records.clips import BY_NAME

SETTINGS = [
    "",
    "clip",
    "data.length",
    "model",
    "model.lr",
    "model.name",
    "seed",
    "trainer",
]


def write(folder: Path, text: str) -> str:
    file = folder / "mine.yaml"
    file.write_text(text)
    return str(file)


WITH_EACH = [kind for kind, row in POLICIES.items() if "per_parameter" in row.options]


def mistake(*assignments: str, config: str = "srn") -> str:
    with pytest.raises(ConfigError) as raised:
        resolve(config=config, assignments=assignments)
    return str(raised.value)


def option(experiment: Experiment, name: str) -> object:
    return experiment.model_dump()["model"][name]


def test_model_brings_the_hyper_parameters_of_its_source() -> None:
    experiment = resolve(values={"model.name": "srn"})

    assert option(experiment, "lr") == 0.2
    assert experiment.trainer.max_epochs == 50
    assert experiment.clip == []
    assert experiment.name == "srn"


def test_config_overrides_the_model(tmp_path: Path) -> None:
    config = write(tmp_path, "model: {name: srn, lr: 0.1}")

    experiment = resolve(config=config)

    assert option(experiment, "lr") == 0.1
    assert experiment.trainer.max_epochs == 50
    assert experiment.name == "mine"


def test_assignment_overrides_the_config(tmp_path: Path) -> None:
    config = write(tmp_path, "model: {name: srn, lr: 0.1}")

    experiment = resolve(config=config, assignments=["model.lr=0.3"])

    assert option(experiment, "lr") == 0.3


def test_last_assignment_wins() -> None:
    experiment = resolve(config="srn", assignments=["model.lr=0.3", "model.lr=0.4"])

    assert option(experiment, "lr") == 0.4


def test_value_overrides_the_assignment() -> None:
    experiment = resolve(
        config="srn", assignments=["log_dir=a"], values={"log_dir": "b", "seed": None}
    )

    assert experiment.log_dir == "b"


def test_clip_list_is_replaced_as_a_whole() -> None:
    experiment = resolve(config="mlp-norm-value", assignments=["clip=[{norm: 2}]"])

    assert experiment.clipping == "norm 2"


def test_dump_reads_back_as_the_same_experiment(tmp_path: Path) -> None:
    experiment = resolve(config="mlp-norm-value", assignments=["trainer.devices=2"])

    assert resolve(config=write(tmp_path, dump(experiment))) == experiment


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("-2.5E+1", -25.0), (".5", 0.5), ("1.", 1.0), ("+1", 1),
        ("5", 5), ("010", 10), ("008", 8), ("0o10", 8), ("0x10", 16),
        (".inf", math.inf), ("-.INF", -math.inf),
        ("true", True), ("FALSE", False), ("~", None), ("null", None), ("", None),
        *((word, word) for word in (
            "x", "yes", "no", "on", "Off", "y", "tRUE", "nULL", "1:30", "1_000", "0b11",
            "2026-01-31", "2026-13-01", "1e", ".", "=", "12e03x", "+0x10", "1,5",
        )),
        ("'010'", "010"), ("!!str 010", "010"),
    ],
)  # fmt: skip
def test_parse_reads_yaml_1_2(text: str, value: object) -> None:
    parsed = parse(text)

    assert (parsed, type(parsed)) == (value, type(value))


SPECIAL = "010 08 0o10 0x1F 1_000 1:30 yes no ~ null .inf .5 +.5e3 1e3 = << - ? * & # @"
TEXTS = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(
    SPECIAL.split()
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3)
    ),
    max_leaves=6,
)


@given(VALUES)
def test_what_is_written_is_read_back(value: object) -> None:
    for text in (yaml_text.write(value), write_inline(value)):
        parsed = parse(text)
        assert (parsed, type(parsed)) == (value, type(value))


@given(VALUES)
def test_value_written_inline_takes_one_line(value: object) -> None:
    assert len(write_inline(value).splitlines()) <= 1


def test_own_keys_override_merged_ones() -> None:
    text = "a: &a {x: 1, y: 1}\nb: &b {<<: *a, y: 2}\nc: {<<: *b, x: 3}"

    assert parse(text)["c"] == {"x": 3, "y": 2}


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_name_is_read_back_from_the_file(name: str) -> None:
    experiment = resolve(config="srn", values={"name": name, "log_dir": f"./{name}"})

    assert resolve(values=parse(dump(experiment))) == experiment


@pytest.mark.parametrize("word", ["yes", "ON", "true"])
def test_words_for_yes_are_one_where_that_is_asked_for(word: str) -> None:
    experiment = resolve(
        config="srn", assignments=[f"layer_statistics={word}", "name=yes"]
    )

    assert (experiment.layer_statistics, experiment.name) == (True, "yes")


@pytest.mark.parametrize("word", ["no", "Off", "false"])
def test_words_for_no_are_one_where_that_is_asked_for(word: str) -> None:
    experiment = resolve(config="srn", assignments=[f"data.shuffle={word}", "name=no"])

    assert experiment.data.model_dump()["shuffle"] is False
    assert experiment.name == "no"


def test_grouped_digits_are_a_number_where_one_is_asked_for() -> None:
    experiment = resolve(
        config="srn",
        assignments=["seed=1_000", "name=1_000", "clip=[{norm: 1_0}]"],
    )

    assert (experiment.seed, experiment.name) == (1000, "1_000")
    assert experiment.clipping == "norm 10"


def test_home_is_found_in_the_log_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("USERPROFILE", "/home/me")

    assert resolve(config="srn", values={"log_dir": "~/runs"}).log_dir == (
        "/home/me/runs"
    )


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_parse_reads_every_float_python_writes(number: float) -> None:
    assert parse(repr(number)) == number


@pytest.mark.parametrize(
    ("order", "clipping"),
    [
        (None, "norm 5 per parameter, then value 1"),
        ("norm,value", "norm 5 per parameter, then value 1"),
        ("value,norm", "value 1, then norm 5 per parameter"),
    ],
)
def test_clip_list_keeps_the_order_asked_for(order: str | None, clipping: str) -> None:
    clip = clip_list("5", "1", order=order, per_parameter=True)

    assert resolve(config="srn", values={"clip": clip}).clipping == clipping


def test_every_policy_has_its_yaml() -> None:
    clips = (
        "clip=[{auto: 10}, {zclip: 2.5}, {agc: 0.01, exclude: ['head.*']}, "
        "{by_name: {'rnn.*': [{value: 10}, {norm: 1}], '*': [{zclip: 3}]}}]"
    )

    experiment = resolve(config="srn", assignments=[clips, "on_nonfinite=raise"])

    assert experiment.clipping == (
        "auto 10, then zclip 2.5, then agc 0.01, then "
        "by name (rnn.* value 10, then norm 1; * zclip 3)"
    )
    assert experiment.on_nonfinite == "raise"


@pytest.mark.parametrize(
    ("text", "spike"),
    [
        ("skip", Spike("skip")),
        ("raise:8", Spike("raise", sigma=8)),
        ("{sigma: 5, window: 64}", Spike("skip", sigma=5, window=64)),
        ("{action: raise, watch: [loss]}", Spike("raise", watch=["loss"])),
    ],
)
def test_spike_is_an_action_or_its_options(text: str, spike: Spike) -> None:
    experiment = resolve(config="srn", assignments=[f"on_spike={text}"])
    again = resolve(config="srn", values=parse(dump(experiment)))

    assert experiment.on_spike.value == again.on_spike.value == spike


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stop", "on_spike.action should be 'record', 'skip' or 'raise', got 'stop'"),
        ("skip:x", "on_spike.sigma should be a valid number, got 'x'"),
        ("{sigm: 3}", "on_spike.sigm is not a setting, did you mean on_spike.sigma?"),
        ("{window: 4}", "on_spike.window should be greater than or equal to 8, got 4"),
    ],
)
def test_mistakes_in_a_spike_are_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        resolve(config="srn", assignments=[f"on_spike={text}"])


def test_every_field_of_a_policy_is_kept_in_the_file() -> None:
    clip = (
        "clip=[{norm: 1, norm_type: .inf}, {zclip: 2.5, alpha: 0.9, warmup: 50}, "
        "{auto: 10, history: 9, per_parameter: true}, {agc: 0.1, eps: 1e-2}]"
    )
    experiment = resolve(config="srn", assignments=[clip])

    again = resolve(config="srn", values=parse(dump(experiment)))

    assert again == experiment
    assert [one.options for one in again.clip] == [
        {"norm_type": math.inf},
        {"alpha": 0.9, "warmup": 50},
        {"history": 9, "per_parameter": True},
        {"eps": 0.01},
    ]


def test_file_of_0_1_names_options_that_are_none_of_the_policy_s() -> None:
    clip = "clip=[{value: 1.0, per_parameter: false, exclude: []}]"

    experiment = resolve(config="srn", assignments=[clip])

    assert experiment.clipping == "value 1"


def test_number_that_only_the_policy_can_refuse_is_told() -> None:
    experiment = resolve(config="srn", assignments=["clip=[{norm: 1, norm_type: 3}]"])

    with pytest.raises(ConfigError, match="clip: norm_type must be 2 or inf, got 3"):
        build(experiment)


def test_clip_list_is_absent_without_flags() -> None:
    assert clip_list(None, None, order=None, per_parameter=False) is None


@pytest.mark.parametrize(
    ("norm", "order", "sentence"),
    [
        (None, None, "--per-parameter needs --clip-norm"),
        (
            "5",
            "value,norm",
            "--clip-order value,norm needs --clip-norm and --clip-valu",
        ),
    ],
)
def test_clip_list_refuses_a_flag_without_the_one_it_needs(
    norm: str | None, order: str | None, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        clip_list(norm, None, order=order, per_parameter=True)


def test_trainer_clip_alone_is_an_experiment() -> None:
    experiment = resolve(config="srn", assignments=["trainer.gradient_clip_val=5"])

    assert experiment.clipping == "norm 5, by Lightning"


def test_trainer_clip_beside_clip_is_refused() -> None:
    sentence = mistake("trainer.gradient_clip_val=5", config="srn-cured")

    assert sentence == (
        "clip (norm 5) and trainer.gradient_clip_val (5) would clip twice, "
        "keep one of them"
    )


@pytest.mark.parametrize(
    ("assignment", "near"),
    [
        ("model.cel=lstm", "model.cell"),
        ("lr=0.1", "model.lr"),
        ("model.length=5", "data.length"),
        ("trainer.max_epocs=5", "trainer.max_epochs"),
        ("clip=[{nrm: 5}]", "clip[0].norm"),
        ("sead=5", "seed"),
    ],
)
def test_unknown_setting_is_answered_with_the_nearest(
    assignment: str, near: str
) -> None:
    sentence = mistake(assignment)

    assert sentence.endswith(f"is not a setting, did you mean {near}?")


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("model.lr=fast", "model.lr should be a valid number, got 'fast'"),
        ("model.lr=true", "model.lr should be a valid number, got True"),
        ("model.lr=-1", "model.lr should be greater than or equal to 0, got -1"),
        ("model.lr=.nan", "model.lr should be a finite number, got nan"),
        ("data.batch_size=0", "data.batch_size should be greater than 0, got 0"),
        ("data.batch_size=1.5", "data.batch_size should be a valid integer, got 1.5"),
        ("data.shuffle=3", "data.shuffle should be a valid boolean, got 3"),
        (
            "clip=[{norm: -1.0}]",
            "clip[0].norm (--clip-norm) should be greater than 0, got -1.0",
        ),
        (
            "clip=[{norm: .nan}]",
            "clip[0].norm (--clip-norm) should be a finite number, got nan",
        ),
        (
            "clip=[{value: .inf}]",
            "clip[0].value (--clip-value) should be a finite number, got inf",
        ),
        (
            "clip=[{}]",
            f"clip[0] should have one of {either([*POLICIES, BY_NAME])}, got {{}}",
        ),
        (
            "clip=[{norm: 1.0, exclude: [a]}]",
            "clip[0] should have agc where it has exclude, got {'norm': 1.0, ",
        ),
        (
            "clip=[{by_name: {rnn: [{nrm: 5}]}}]",
            "clip[0].by_name.rnn[0].nrm is not a setting, did you mean clip[0].by_name?",
        ),
        ("max_consecutive_skips=0", "max_consecutive_skips should be greater than 0"),
        ("dump_dir=bad", "dump_dir (bad) needs on_nonfinite or on_spike skip or raise"),
        ("clip=5", "clip should be a valid list, got 5"),
        (
            "clip=[{value: 1, per_parameter: true}]",
            f"clip[0] should have {either(WITH_EACH)} where it has per_parameter, "
            "got {'value': 1, 'per_parameter': True}",
        ),
        (
            "model.optimizer=adm",
            "model.optimizer should be 'sgd', 'adam', 'adamw' or 'rmsprop', "
            "got 'adm', did you mean 'adam'?",
        ),
        (
            "trainer.strategy=dpp",
            "trainer.strategy should be a strategy of Lightning such as 'ddp', "
            "got 'dpp'",
        ),
        (
            "trainer.devices=none",
            "trainer.devices should be a number of devices, a list of them, "
            "or \"auto\", got 'none'",
        ),
        ("trainer=[", "the value of --set 'trainer=[' is not YAML: "),
        ("trainer", "--set expects KEY=VALUE, got 'trainer'"),
        ("=5", "--set expects KEY=VALUE, got '=5'"),
        ("seed=1:30", "seed should be a valid integer, got '1:30'"),
        ("seed=1e3", "seed should be a valid integer, got 1000.0"),
        ("trainer.devices=1:30", "trainer.devices should be a number of devices"),
        (
            "name=010",
            "name should be a valid string, got 10; put it in quotes if it is meant",
        ),
        ("name=#5", "the value of --set 'name=#5' ends in '#5', which YAML takes for"),
        ("model={1: 2}", "model has the key 1; put it in quotes"),
        (
            "clip=[{by_name: {0.1: [{norm: 5}]}}]",
            "clip[0].by_name has the key 0.1; put it in quotes",
        ),
        ("clip=[3]", "clip[0] should be a mapping, got 3"),
        ("model=3", "model should be a mapping with a name, got 3"),
        ("model.name=srm", "model.name 'srm' is unknown, did you mean 'srn'?"),
    ],
)
def test_mistake_is_told_with_field_and_value(assignment: str, sentence: str) -> None:
    assert mistake(assignment).startswith(sentence)


@pytest.mark.parametrize("devices", ["2", "auto", "-1", "[0, 1]", "'0,1'", "'1,'"])
def test_devices_take_every_form_of_lightning(devices: str) -> None:
    experiment = resolve(config="srn", assignments=[f"trainer.devices={devices}"])

    assert experiment.trainer.devices == devices.strip("[]'").replace(" ", "")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"a: [", "is not YAML: expected"),
        (b"- 1", r"should be a mapping, got \[1\]"),
        (b"\xff\xfe\xff", "cannot be read: it is not UTF-8 text"),
        (b"\x00", "is not YAML: unacceptable character #x0000"),
        (b"seed: !!int five", "is not YAML: 'five' is no int"),
        (b"a:\n\tb: 1", r"line 2: found character '\\t' .*: indent with blanks"),
        (b"a: *.weight", "put a text that begins with .* in quotes"),
        (b"a: 1\n---\nb: 1", "line 2: expected a single document in the stream"),
        (b"[" * 5000, "is not YAML: it is nested too deeply"),
        ("seed: 3".encode("utf-16"), "cannot be read: it is not UTF-8 text"),
        (b"seed: 3\nclip: []\nseed: 4\n", "gives 'seed' twice, in lines 1 and 3"),
        (b"trainer: {max_epochs: 3, max_epochs: 7}", "'max_epochs' twice, in line 1"),
        (b"clip:\n- {norm: 1, norm: 9}", "gives 'norm' twice, in line 2"),
        (b"a: &a {b: 1}\n<<: *a\n<<: *a\n", "gives '<<' twice, in lines 2 and 3"),
        (b"seed: 3", "model.name is missing: give --model"),
    ],
)
def test_broken_config_file_is_refused(
    tmp_path: Path, content: bytes, sentence: str
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)

    with pytest.raises(ConfigError, match=sentence):
        resolve(config=str(file))


@given(key=st.sampled_from(SETTINGS), value=st.text(max_size=9))
def test_any_text_in_set_is_an_experiment_or_a_mistake(key: str, value: str) -> None:
    with suppress(ConfigError):
        resolve(config="srn", assignments=[f"{key}={value}"])


def test_missing_config_file_is_refused_by_name(tmp_path: Path) -> None:
    file = str(tmp_path / "none.yaml")

    assert mistake(config=file) == (
        f"config {file!r} cannot be read: No such file or directory"
    )


def test_unknown_bundled_config_is_answered_with_the_nearest() -> None:
    assert mistake(config="srn-curd") == (
        "config 'srn-curd' is not bundled, did you mean 'srn-cured'?"
    )


def test_name_of_a_file_without_an_extension_is_told_how_to_give_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").write_text("model: {name: srn}")
    monkeypatch.chdir(tmp_path)

    here = f".{os.sep}mine"
    assert mistake(config="mine") == (
        f"config 'mine' is not bundled; for the file here give {here!r}"
    )
    assert resolve(config=here).model.name == "srn"


@pytest.mark.parametrize("name", ["./srn", "my.exp", "srn.yml", "./no\0such"])
def test_whatever_has_a_slash_or_an_extension_is_a_file(name: str) -> None:
    assert mistake(config=name).startswith(f"config {name!r} cannot be read: ")


def test_bundled_config_with_an_extension_is_answered_with_its_name() -> None:
    assert mistake(config="srn-cured.yaml").endswith(
        "did you mean the bundled 'srn-cured'?"
    )


@pytest.mark.parametrize("newline", ["\r\n", "\r", "\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_file_of_any_editor_is_read(tmp_path: Path, mark: str, newline: str) -> None:
    file = tmp_path / "mine.yaml"
    lines = (f"{mark}# mine", "model:", "  name: srn", "seed: 007", "name: größe 🙂")
    file.write_bytes(newline.join(lines).encode())

    experiment = resolve(config=str(file))

    assert (experiment.seed, experiment.name) == (7, "größe 🙂")


def test_nearest_prefers_the_same_last_part() -> None:
    names = ["model.depths", "data.depth"]

    assert nearest("model.depth", names) == "data.depth"
