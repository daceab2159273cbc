"""Inspect a module of the user's: import it, build it, give it a batch."""

from collections.abc import Iterable, Mapping

from lightning.pytorch import LightningModule, seed_everything

from gradguard.errors import ConfigError
from gradguard.experiments.user_class import constructed, imported, options_of
from gradguard.inspection.layers import Inspection
from gradguard.inspection.passes import by_example, by_trainer

_SEEDS = 2**32  # as many as numpy takes


def inspect_module(path: str, *, arguments: Iterable[str], seed: str) -> Inspection:
    """Inspect a module of the user's on a batch that the module brings.

    That is the first batch of its `train_dataloader`, and the loss of its
    `training_step`; or else its `example_input_array`, and the mean of the output with random signs.

    Args:
        path: "package.module:Class", importable from here.
        arguments: For its constructor, as "depth=30", the right side in YAML.
        seed: Seeds weights and batch, a whole number.

    Raises:
        ConfigError: If there is no such class, it cannot be built, or has no batch.
    """
    if not (seed.isdecimal() and int(seed) < _SEEDS):
        raise ConfigError(f"seed should be a whole number below 2^32, got {seed!r}")
    options = options_of(arguments)
    found = imported(path)
    seed_everything(int(seed), verbose=False)
    module = constructed(found, path=path, options=options)
    given = getattr(type(module), "train_dataloader", None)
    if given not in (None, LightningModule.train_dataloader):
        return by_trainer(module, None, subject=path, rows="the first batch")
    example = getattr(module, "example_input_array", None)
    if example is None:
        raise ConfigError(
            f"--module {path} has neither train_dataloader() nor example_input_array"
        )
    return by_example(module, example, subject=path)


def require_unused(options: Mapping[str, object]) -> None:
    """Refuse options that only bundled models take.

    Raises:
        ConfigError: If one of the options is given.
    """
    for option, value in options.items():
        if value is not None:
            raise ConfigError(f"{option} is for bundled models, not for --module")
