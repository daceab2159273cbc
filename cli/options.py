"""The options of the commands: how they are declared, and what settings they give."""

import shlex
import sys
from copy import copy
from typing import Annotated, Any, get_args

import typer

# Options that are short for `--set KEY=VALUE`, by their names in a command's signature.
SETTINGS = {
    "accelerator": "trainer.accelerator",
    "devices": "trainer.devices",
    "num_nodes": "trainer.num_nodes",
    "strategy": "trainer.strategy",
    "precision": "trainer.precision",
    "max_epochs": "trainer.max_epochs",
    "log_every_n_steps": "trainer.log_every_n_steps",
    "batch_size": "data.batch_size",
    "lr": "model.lr",
    "optimizer": "model.optimizer",
    "weight_decay": "model.weight_decay",
    "seed": "seed",
    "on_nonfinite": "on_nonfinite",
    "on_spike": "on_spike",
    "max_consecutive_skips": "max_consecutive_skips",
    "dump_dir": "dump_dir",
}


def assigned(context: typer.Context) -> list[str]:
    """The options of `SETTINGS` on the command line, as `--set` takes them: "model.lr=0.1"."""
    given = context.params
    return [
        f"{key}={given[name]}"
        for name, key in SETTINGS.items()
        if given.get(name) is not None
    ]


def typed(*, without: str = "") -> str:
    """Return the command line as it can be typed again.

    Args:
        without: An option that takes a value, to be left out with that.
    """
    kept: list[str] = []
    given = iter(sys.argv[1:])
    for argument in given:
        if without and argument == without:
            next(given, None)
        elif not (without and argument.startswith(f"{without}=")):
            kept.append(argument)
    return shlex.join(["gradguard", *kept])


def text(*names: str, metavar: str, help: str) -> Any:
    """Declare an option taken as text, to be read and checked like a config."""
    return typer.Option(*names, metavar=metavar, help=help, show_default=False)


def flag(name: str, *, help: str) -> Any:
    """Declare an option that is given or not."""
    return typer.Option(name, help=help, show_default=False)


def count(name: str, *, help: str, show_default: bool = True) -> Any:
    """Declare an option that is a whole number from 1 to 10,000."""
    return typer.Option(
        name,
        metavar="NUMBER",
        min=1,
        max=10_000,
        help=help,
        show_default=show_default,
    )


def several(option: Any) -> Any:
    """Declare an option again, to take several values separated by commas."""
    _, declared = get_args(option)
    values = copy(declared)
    values.metavar = "VALUES"
    return values


Model = Annotated[
    str | None,
    text(
        "--model",
        metavar="NAME",
        help="mlp, deep_mlp or srn; a config may name it instead.",
    ),
]
Config = Annotated[
    str | None,
    text(
        "--config",
        metavar="FILE|NAME",
        help="An experiment; `gradguard configs` lists the bundled.",
    ),
]
Set = Annotated[
    list[str] | None,
    text(
        "--set",
        metavar="KEY=VALUE",
        help="Any setting of a config, as model.depth=30; repeatable.",
    ),
]
ClipNorm = Annotated[
    str | None,
    text(
        "--clip-norm",
        metavar="NUMBER",
        help="Largest L2 norm of all gradients together.",
    ),
]
ClipValue = Annotated[
    str | None,
    text(
        "--clip-value",
        metavar="NUMBER",
        help="Largest absolute value of a gradient's element.",
    ),
]
ClipOrder = Annotated[
    str | None,
    text(
        "--clip-order",
        metavar="ORDER",
        help="Which comes first: norm,value (default) or value,norm.",
    ),
]
PerParameter = Annotated[
    bool, flag("--per-parameter", help="Clip each parameter's norm by itself.")
]
MaxEpochs = Annotated[
    str | None,
    text("--max-epochs", metavar="NUMBER", help="Passes over the training data."),
]
BatchSize = Annotated[
    str | None, text("--batch-size", metavar="NUMBER", help="Samples per batch.")
]
Lr = Annotated[str | None, text("--lr", metavar="NUMBER", help="Learning rate.")]
Seed = Annotated[
    str | None, text("--seed", metavar="NUMBER", help="Seed of weights and batches.")
]
LogDir = Annotated[
    str | None,
    text("--log-dir", metavar="DIRECTORY", help="Where runs go (default: runs)."),
]
Jobs = Annotated[int, count("--jobs", help="Runs at a time.")]
Figure = Annotated[
    str | None,
    text("--figure", metavar="FILE", help="Picture to draw: a .png, .svg or .pdf."),
]
Json = Annotated[bool, flag("--json", help="Print one JSON document.")]
