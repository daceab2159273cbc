"""Where settings come from: the model's config, another config, assignments, flags."""

import os
from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from importlib.resources import files
from pathlib import Path
from typing import Any

from gradguard.clipping import spec
from gradguard.errors import ConfigError
from gradguard.experiments import yaml_text
from gradguard.experiments.config import MODELS, Experiment, validate
from gradguard.experiments.yaml_text import parse
from gradguard.names import nearest
from gradguard.records.clips import BY_NAME

Settings = dict[str, Any]


def resolve(
    *,
    config: str | None = None,
    assignments: Iterable[str] = (),
    values: Mapping[str, Any] | None = None,
) -> Experiment:
    """Return the experiment that all layers together describe.

    Later layers win, key by key: the bundled config of the model, `config`, the
    assignments in their order, `values`.

    Args:
        config: Name of a bundled config, or path of a YAML file.
        assignments: Texts like "model.depth=30", the right side in YAML.
        values: Values by dotted name; None stands for "not given".

    Raises:
        ConfigError: If a layer cannot be read, or together they are no experiment.
    """
    given = [_assignment(text) for text in assignments]
    given += [
        _nested(key, value)
        for key, value in (values or {}).items()
        if value is not None
    ]
    asked = reduce(_merged, given, _read(config) if config else {})
    model = _model_name(asked)
    unnamed = {"name": Path(config).stem if config else model}
    return validate(reduce(_merged, [unnamed, _read(model), asked]), model=model)


def clip_list(
    norm: str | None,
    value: str | None,
    *,
    order: str | None,
    per_parameter: bool,
    more: Iterable[str] = (),
    by_name: Iterable[str] = (),
) -> list[Settings] | None:
    """Return the clipping policies that flags ask for, or None if they ask for none.

    Args:
        norm: Largest norm, in YAML.
        value: Largest absolute value, in YAML.
        order: Which of the two comes first; "norm,value" if not given.
        per_parameter: Whether `norm` holds for each parameter by itself.
        more: Policies that come after these two, as "auto:10" or "zclip".
        by_name: Policies by name, which come last, as "rnn.*=value:10".

    Raises:
        ConfigError: If a flag cannot be read, or lacks another without which it means nothing.
    """
    if per_parameter and norm is None:
        raise ConfigError("--per-parameter needs --clip-norm")
    if order is not None and (norm is None or value is None):
        raise ConfigError(f"--clip-order {order} needs --clip-norm and --clip-value")
    policies: list[Settings] = []
    if norm is not None:
        policies.append({"norm": parse(norm), "per_parameter": per_parameter})
    if value is not None:
        policies.append({"value": parse(value)})
    if order not in (None, "norm,value", "value,norm"):
        raise ConfigError(
            f"--clip-order should be norm,value or value,norm, got {order!r}"
        )
    if order == "value,norm":
        policies.reverse()
    policies += [_policy(*_read_flag("--clip", spec.parse, text)) for text in more]
    named: dict[str, list[Settings]] = {}
    for text in by_name:
        pattern, *policy = _read_flag("--clip-by-name", spec.parse_named, text)
        named.setdefault(pattern, []).append(_policy(*policy))
    if named:
        policies.append({BY_NAME: named})
    return policies or None


def _policy(kind: str, number: str) -> Settings:
    return {kind: parse(number)}


def _read_flag(
    flag: str, read: Callable[[str], tuple[str, ...]], text: str
) -> tuple[str, ...]:
    try:
        return read(text)
    except ValueError as error:
        raise ConfigError(f"{flag} {error}") from None


def bundled() -> dict[str, str]:
    """Return the text of every bundled config by name, in alphabetical order."""
    texts = {
        file.name.removesuffix(".yaml"): file.read_text(encoding="utf-8")
        for file in files("gradguard.configs").iterdir()
        if file.name.endswith(".yaml")
    }
    return dict(sorted(texts.items()))


def bundled_text(name: str) -> str:
    """Return the text of one bundled config.

    Raises:
        ConfigError: If there is none of that name.
    """
    configs = bundled()
    if name not in configs:
        near = nearest(name, configs)
        raise ConfigError(f"config {name!r} is not bundled, did you mean {near!r}?")
    return configs[name]


def dump(experiment: Experiment) -> str:
    """Return the experiment as the text of a config that `resolve` reads back."""
    settings = experiment.model_dump(mode="json", exclude_none=True)
    return yaml_text.write(settings)


def _read(config: str) -> Settings:
    """Read a file, or by a name without slash and extension a bundled config."""
    if _is_path(config):
        text = _file_text(config)
    elif config not in bundled() and Path(config).is_file():
        raise ConfigError(
            f"config {config!r} is not bundled; for the file here give {_here(config)!r}"
        )
    else:
        text = bundled_text(config)
    settings = parse(text, source=f"config {config!r}")
    if not isinstance(settings, dict):
        raise ConfigError(f"config {config!r} should be a mapping, got {settings!r}")
    return settings


def _is_path(config: str) -> bool:
    separators = filter(None, (os.sep, os.altsep))
    return bool(Path(config).suffix) or any(one in config for one in separators)


def _here(name: str) -> str:
    return os.path.join(os.curdir, name)  # noqa: PTH118 (a Path would lose the dot)


def _file_text(config: str) -> str:
    path = Path(os.path.expanduser(config))  # noqa: PTH111 (a Path raises without a home)
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        reason = error.strerror
        if path.stem in bundled() and path.name == config:
            reason = f"{reason}; did you mean the bundled {path.stem!r}?"
    except UnicodeDecodeError:
        reason = "it is not UTF-8 text"
    except ValueError:  # a NUL in the name
        reason = "no file can have that name"
    raise ConfigError(f"config {config!r} cannot be read: {reason}")


def _model_name(settings: Settings) -> str:
    section = settings.get("model", {})
    if not isinstance(section, dict):
        raise ConfigError(f"model should be a mapping with a name, got {section!r}")
    name = str(section.get("name", ""))
    if not name:
        raise ConfigError(
            f"model.name is missing: give --model ({', '.join(MODELS)}) or --config"
        )
    if name not in MODELS:
        raise ConfigError(_unknown_model(name))
    return name


def _unknown_model(name: str) -> str:
    """Return what to say of a model there is none of, with configs that are called so."""
    near = nearest(name, MODELS)
    told = f"model.name {name!r} is unknown, did you mean {near!r}? "
    told += f"There are {', '.join(MODELS)}"
    configs = [config for config in bundled() if name and name in config]
    return told + (f"; or give --config {configs[0]}" if configs else "")


def _assignment(text: str) -> Settings:
    key, equals, value = text.partition("=")
    if not (key.strip() and equals):
        raise ConfigError(f"--set expects KEY=VALUE, got {text!r}")
    source = f"the value of --set {text!r}"
    return _nested(key.strip(), parse(value, source=source, comments=False))


def _nested(key: str, value: Any) -> Settings:
    """Turn ("a.b", 1) into {"a": {"b": 1}}."""
    first, dot, rest = key.partition(".")
    return {first: _nested(rest, value) if dot else value}


def _merged(below: Any, above: Any) -> Any:
    """Lay one mapping over another, key by key; anything else replaces what is below."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return below | {key: _merged(below.get(key), above[key]) for key in above}
