"""`gradguard reproduce`: what the documents claim, and what comes out."""

import os
from pathlib import Path
from typing import Annotated

import typer

from gradguard.cli.options import Jobs, count, flag


def reproduce(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Experiments; all if none is named."),
    ] = None,
    *,
    quick: Annotated[
        bool,
        flag("--quick", help="One seed, a few minutes on two cores."),
    ] = False,
    jobs: Jobs = 2,
    seeds: Annotated[
        int | None,
        count(
            "--seeds",
            help="Runs of each kind (default: 5, or 1 if quick).",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path,
        typer.Option("--output", metavar="DIRECTORY", help="Where the page goes."),
    ] = Path("reproduction"),
    list_: Annotated[
        bool,
        flag("--list", help="List the experiments."),
    ] = False,
) -> None:
    """Run the experiments of five documents and judge their claims.

    A claim that does not hold is a result. Exit code 1 says that a number left the band
    of our own earlier measurements.
    """
    from gradguard.reproduction.studies import select

    studies = select(names or [])
    if list_:
        width = max(len(study.name) for study in studies)
        for study in studies:
            typer.echo(f"{study.name:<{width}}  {study.title}")
        return
    from gradguard.reproduction.command import reproduce
    from gradguard.reproduction.page import Settings

    page = Path(os.path.expanduser(output))  # noqa: PTH111 (a Path may raise)
    settings = Settings(tuple(names or ()), quick, seeds or (1 if quick else 5), page)
    outside = reproduce(studies, settings, jobs=jobs)
    for sentence in outside:
        typer.echo(f"gradguard: {sentence}", err=True)
    if outside:
        raise typer.Exit(1)
