"""`gradguard report`: what the gradients of runs did, and what is the matter with them."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    *,
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...", help="Directories of runs, or ones above them."
        ),
    ],
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON document.", show_default=False),
    ] = False,
    html: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Write a page for any browser.", show_default=False
        ),
    ] = None,
    figure: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Draw the norms into a .png, .svg or .pdf.",
            show_default=False,
        ),
    ] = None,
    layers: Annotated[
        bool,
        typer.Option("--layers", help="Print a table by layer.", show_default=False),
    ] = False,
    steps: Annotated[
        str | None,
        typer.Option(
            metavar="N|M:N",
            help="Draw the first N steps, or M to N.",
            show_default=False,
        ),
    ] = None,
    parameters: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            help="Draw the parameters of such names.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Say what the gradients of runs did, and what is the matter with them.

    Works on any run that GradGuard and a TensorBoardLogger recorded.
    """
    from gradguard.report.command import Wanted, report

    wanted = Wanted(
        as_json=as_json,
        html=html,
        figure=figure,
        by_layer=layers,
        steps=steps,
        parameters=parameters,
    )
    report([Path(run) for run in runs], wanted)
