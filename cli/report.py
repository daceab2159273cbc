"""`gradguard report`: what the gradients of runs did, and what is wrong with them."""

from typing import Annotated

import typer

from gradguard.cli.options import Figure, Json, flag, text, typed


def report(
    *,
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...", help="Directories of runs, or ones above them."
        ),
    ],
    as_json: Json = False,
    html: Annotated[
        str | None,
        text("--html", metavar="FILE", help="Write a page for any browser."),
    ] = None,
    interactive: Annotated[
        bool,
        flag("--interactive", help="Let the page's pictures zoom: 5 MB more."),
    ] = False,
    figure: Figure = None,
    layers: Annotated[
        bool,
        flag("--layers", help="Print a table by layer."),
    ] = False,
    full: Annotated[
        bool,
        flag("--full", help="Print all of each run, and each finding whole."),
    ] = False,
    steps: Annotated[
        str | None,
        text(
            "--steps",
            metavar="N|M:N",
            help="Draw the first N steps, or M to N.",
        ),
    ] = None,
    parameters: Annotated[
        str | None,
        text(
            "--parameters",
            metavar="REGEX",
            help="Draw the parameters of such names.",
        ),
    ] = None,
) -> None:
    """Say what the gradients of runs did, and what is wrong.

    Works on any run that GradGuard and a TensorBoardLogger recorded.
    """
    from gradguard.report import command

    command.report(
        runs,
        as_json=as_json,
        html=html,
        figure=figure,
        interactive=interactive,
        typed=typed(),
        by_layer=layers,
        full=full,
        steps=steps,
        parameters=parameters,
    )
