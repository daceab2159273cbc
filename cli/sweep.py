"""`gradguard sweep`: run an experiment under many settings and seeds."""

from typing import Annotated

import typer

from gradguard.cli.options import (
    BatchSize,
    ClipNorm,
    ClipOrder,
    ClipValue,
    Config,
    Figure,
    Jobs,
    Json,
    LogDir,
    Lr,
    MaxEpochs,
    Model,
    PerParameter,
    Set,
    assigned,
    count,
    flag,
    several,
    text,
)


def sweep(
    context: typer.Context,
    *,
    model: Model = None,
    config: Config = None,
    clip_norm: Annotated[str | None, several(ClipNorm)] = None,
    clip_value: Annotated[str | None, several(ClipValue)] = None,
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
    max_epochs: Annotated[str | None, several(MaxEpochs)] = None,
    batch_size: Annotated[str | None, several(BatchSize)] = None,
    lr: Annotated[str | None, several(Lr)] = None,
    settings: Set = None,
    seeds: Annotated[int, count("--seeds", help="Runs of each combination.")] = 5,
    jobs: Jobs = 1,
    log_dir: LogDir = None,
    keep_runs: Annotated[
        bool,
        flag("--keep-runs", help="Keep events and checkpoints."),
    ] = False,
    as_json: Json = False,
    figure: Figure = None,
) -> None:
    """Compare settings over seeds: metrics, clipping, divergence.

    Several values, separated by commas, are compared, as in --clip-norm none,1,5;
    several options make a grid. A run that has ended is not run again, so the same
    command goes on after Ctrl-C.
    """
    from gradguard.sweep.grid import clip_points, grid, points

    clips = clip_points(
        clip_norm, clip_value, order=clip_order, per_parameter=per_parameter
    )
    cells = grid(
        [
            *([clips] if clips else []),
            *map(points, [*assigned(context), *(swept or ())]),
        ],
        seeds=seeds,
        config=config,
        assignments=settings or (),
        values={"model.name": model, "log_dir": log_dir},
    )
    # torch takes seconds to import; a wrong name is told before.
    from gradguard.sweep import command

    failed = command.sweep(
        cells, jobs=jobs, keep_runs=keep_runs, as_json=as_json, figure=figure
    )
    if failed:
        raise typer.Exit(1)
