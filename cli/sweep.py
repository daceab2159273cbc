"""`gradguard sweep`: run an experiment under many settings and seeds."""

from typing import Annotated

import typer

from gradguard.cli.options import (
    ClipOrder,
    Config,
    Figure,
    Json,
    Model,
    PerParameter,
    count,
    flag,
    text,
)


def sweep(
    *,
    model: Model = None,
    config: Config = None,
    clip_norm: Annotated[
        str | None,
        text(
            "--clip-norm", metavar="VALUES", help="Largest L2 norms, as none,0.1,1,5."
        ),
    ] = None,
    clip_value: Annotated[
        str | None,
        text(
            "--clip-value",
            metavar="VALUES",
            help="Largest absolute values of an element.",
        ),
    ] = None,
    clip_order: ClipOrder = None,
    per_parameter: PerParameter = False,
    swept: Annotated[
        list[str] | None,
        text(
            "--sweep",
            metavar="KEY=VALUES",
            help="Any setting, as model.width=25,100; repeatable.",
        ),
    ] = None,
    max_epochs: Annotated[
        str | None,
        text("--max-epochs", metavar="VALUES", help="Passes over the training data."),
    ] = None,
    batch_size: Annotated[
        str | None,
        text("--batch-size", metavar="VALUES", help="Samples per optimizer step."),
    ] = None,
    lr: Annotated[
        str | None, text("--lr", metavar="VALUES", help="Learning rates.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        text(
            "--set",
            metavar="KEY=VALUE",
            help="Any setting of all runs, as model.depth=30; repeatable.",
        ),
    ] = None,
    seeds: Annotated[
        int,
        count("--seeds", help="Runs of each combination."),
    ] = 5,
    jobs: Annotated[int, count("--jobs", help="Runs at a time.")] = 1,
    log_dir: Annotated[
        str | None,
        text(
            "--log-dir", metavar="DIRECTORY", help="Where results go (default: runs)."
        ),
    ] = None,
    keep_runs: Annotated[
        bool,
        flag("--keep-runs", help="Keep events and checkpoints."),
    ] = False,
    as_json: Json = False,
    figure: Figure = None,
) -> None:
    """Compare settings over several seeds: metrics, clipping, stuck units, divergence.

    Several values, separated by commas, are compared; several options make a grid.
    A run that has ended is not run again, so the same command goes on after Ctrl-C.
    """
    from gradguard.sweep.grid import clip_points, grid, points

    shorthands = {
        "trainer.max_epochs": max_epochs,
        "data.batch_size": batch_size,
        "model.lr": lr,
    }
    given = [f"{key}={text}" for key, text in shorthands.items() if text is not None]
    clips = clip_points(
        clip_norm, clip_value, order=clip_order, per_parameter=per_parameter
    )
    cells = grid(
        [*([clips] if clips else []), *map(points, [*given, *(swept or ())])],
        seeds=seeds,
        config=config,
        assignments=settings or (),
        values={"model.name": model, "log_dir": log_dir},
    )
    # torch takes seconds to import; a wrong name is told before.
    from gradguard.sweep.command import Wanted, sweep

    wanted = Wanted(jobs=jobs, keep_runs=keep_runs, as_json=as_json, figure=figure)
    failures = sweep(cells, wanted)
    if failures:
        raise typer.Exit(1)
