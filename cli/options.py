"""How options are declared, and those that several commands share."""

from typing import Annotated, Any

import typer


def text(*names: str, metavar: str, help: str) -> Any:
    """Declare an option taken as text, to be read and checked like a config."""
    return typer.Option(*names, metavar=metavar, help=help, show_default=False)


def flag(name: str, *, help: str) -> Any:
    """Declare an option that is given or not."""
    return typer.Option(name, help=help, show_default=False)


def count(name: str, *, help: str, show_default: bool = True) -> Any:
    """Declare an option that is a whole number, from 1 to as many as can be meant."""
    return typer.Option(
        name,
        metavar="NUMBER",
        min=1,
        max=10_000,
        help=help,
        show_default=show_default,
    )


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
ClipOrder = Annotated[
    str | None,
    text(
        "--clip-order",
        metavar="ORDER",
        help="Of both: norm,value (default) or value,norm.",
    ),
]
PerParameter = Annotated[
    bool, flag("--per-parameter", help="Clip each parameter's norm by itself.")
]
Figure = Annotated[
    str | None,
    text("--figure", metavar="FILE", help="Draw it into a .png, .svg or .pdf."),
]
Json = Annotated[bool, flag("--json", help="Print one JSON document.")]
