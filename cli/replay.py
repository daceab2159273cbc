"""`gradguard replay`: a bad step run again, to the operation that broke it."""

from typing import Annotated

import typer

from gradguard.cli.options import Json, Set, flag, text


def replay(
    *,
    dump: Annotated[
        str,
        typer.Argument(metavar="DUMP", help="What GradGuard(dump_dir=...) has saved."),
    ],
    module: Annotated[
        str | None,
        text(
            "--module",
            metavar="MODULE:CLASS",
            help="The LightningModule, where it is not the one the dump names.",
        ),
    ] = None,
    settings: Set = None,
    trust: Annotated[
        bool,
        flag("--trust", help="Open a dump that can run code of whoever wrote it."),
    ] = False,
    as_json: Json = False,
    html: Annotated[
        str | None,
        text("--html", metavar="FILE", help="Write a page for any browser."),
    ] = None,
) -> None:
    """Run a bad step again, and say what broke it.

    Names the first operation whose output is not finite while its inputs are, its line,
    the samples that do it, and what to try. Each --set gives an argument of the class.
    """
    from gradguard.replay.command import command

    command(
        dump,
        module=module,
        arguments=settings or (),
        trust=trust,
        json=as_json,
        html=html,
    )
