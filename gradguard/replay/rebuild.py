"""The module of a bad step: made anew, or a copy of one that is alive; and whether it fits."""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from inspect import Parameter, signature
from typing import Any

from torch import Tensor, nn

from gradguard.errors import ConfigError
from gradguard.experiments.user_class import constructed, imported, options_of, told
from gradguard.replay.load import BadStep


def copied(module: nn.Module) -> Any:
    """Return a copy of a module, so that the original stays as it is.

    Raises:
        ConfigError: If it cannot be copied.
    """
    try:
        return deepcopy(module)
    except Exception as error:  # of whatever the user keeps in the module
        raise ConfigError(
            f"{type(module).__qualname__} cannot be copied: {told(error)}"
        ) from None


def rebuilt(bad: BadStep, path: str | None, arguments: Iterable[str] = ()) -> Any:
    """Return a new module of the class the dump names, with the hyperparameters it had.

    Args:
        bad: What was saved.
        path: Another class, "package.module:Class"; None for the dump's.
        arguments: For its constructor, "depth=30", in place of hyperparameters.

    Raises:
        ConfigError: If there is no such class, or it cannot be built.
    """
    source = "the module of the dump," if path is None else "--module"
    if path is None:
        path = bad.module["path"]
        _require_importable(path, bad.module["script"] or "SCRIPT")
    found = imported(path, source=source)
    options = {**_arguments(found, bad.module), **options_of(arguments)}
    module = constructed(found, path=path, options=options, source=source)
    if not hasattr(module, "training_step"):
        raise ConfigError(f"{source} {path} has no training_step(): no LightningModule")
    return module


def require_batches(module: Any) -> None:
    """Do nothing if a module is given its batches.

    Raises:
        ConfigError: If it fetches them by itself: a dump has none to fetch.
    """
    if "dataloader_iter" in signature(module.training_step).parameters:
        raise ConfigError(
            f"{type(module).__qualname__} fetches its batches by itself, in "
            "training_step(dataloader_iter): such a step cannot be run again"
        )


def require_fit(bad: BadStep, module: nn.Module) -> None:
    """Do nothing if a module has the dump's weights, by name and by shape.

    Raises:
        ConfigError: If it has not; names the first that differs.
    """
    found: dict[str, Tensor] = dict(module.named_parameters())
    found.update(module.named_buffers())
    wanted = bad.weights | bad.buffers
    kind = type(module).__qualname__
    for name, tensor in wanted.items():
        if name not in found:
            raise ConfigError(
                f"{kind} does not fit the dump: it has no {name}, "
                f"{_shape(tensor)} in the dump{_of_shards(bad)}"
            )
        if found[name].shape != tensor.shape:
            raise ConfigError(
                f"{kind} does not fit the dump: its {name} is {_shape(found[name])}, "
                f"{_shape(tensor)} in the dump{_of_shards(bad)}"
            )
    for name, parameter in module.named_parameters():
        if name not in wanted:
            raise ConfigError(
                f"{kind} does not fit the dump: the dump has no {name}, "
                f"{_shape(parameter)} in the module{_of_shards(bad)}"
            )


def _require_importable(path: str, script: str) -> None:
    module, _, name = path.partition(":")
    kind = name.rpartition(".")[2]
    if "<locals>" in name:
        raise ConfigError(
            f"{kind} was made inside a function, where nobody can import it: give "
            "--module package.module:Class, or in Python the module itself, "
            f"gradguard.replay(dump, {kind}(...))"
        )
    if module == "__main__":
        raise ConfigError(
            f"{kind} stood in the script that was run: give --module {script}:{kind}; "
            'what trains in the script must stand below `if __name__ == "__main__":`'
        )


def _arguments(found: Any, module: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the saved hyperparameters that the class takes."""
    hparams, name = module["hparams"] or {}, module["hparams_name"]
    parameters = signature(found).parameters if callable(found) else {}
    if name in parameters and name != "kwargs":
        return {name: hparams}
    if any(p.kind is Parameter.VAR_KEYWORD for p in parameters.values()):
        return dict(hparams)
    return {key: value for key, value in hparams.items() if key in parameters}


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))


def _of_shards(bad: BadStep) -> str:
    """Say where weights were in parts: then they fit no module."""
    strategy, processes = bad.trainer["strategy"], bad.trainer["world_size"]
    if processes == 1 or "DDP" in strategy:
        return ""
    return (
        f" (saved by one of {processes} processes under {strategy}, weights in parts)"
    )
