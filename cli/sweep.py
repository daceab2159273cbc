"""`gradguard sweep`: run an experiment under many settings and seeds."""

from typing import Annotated, Any

import typer


def _option(*names: str, metavar: str, help: str) -> Any:
    """Declare an option taken as text, to be read and checked like a config."""
    return typer.Option(*names, metavar=metavar, help=help, show_default=False)


def sweep(
    *,
    model: Annotated[
        str | None,
        _option(
            "--model",
            metavar="NAME",
            help="mlp, deep_mlp or srn; a config may name it instead.",
        ),
    ] = None,
    config: Annotated[
        str | None,
        _option(
            "--config",
            metavar="FILE|NAME",
            help="An experiment; `gradguard configs` lists the bundled.",
        ),
    ] = None,
    clip_norm: Annotated[
        str | None,
        _option(
            "--clip-norm", metavar="VALUES", help="Largest L2 norms, as none,0.1,1,5."
        ),
    ] = None,
    clip_value: Annotated[
        str | None,
        _option(
            "--clip-value",
            metavar="VALUES",
            help="Largest absolute values of an element.",
        ),
    ] = None,
    clip_order: Annotated[
        str | None,
        _option(
            "--clip-order",
            metavar="ORDER",
            help="Of both: norm,value (default) or value,norm.",
        ),
    ] = None,
    per_parameter: Annotated[
        bool,
        typer.Option(
            "--per-parameter",
            help="Clip each parameter's norm by itself.",
            show_default=False,
        ),
    ] = False,
    swept: Annotated[
        list[str] | None,
        _option(
            "--sweep",
            metavar="KEY=VALUES",
            help="Any setting, as model.width=25,100; repeatable.",
        ),
    ] = None,
    max_epochs: Annotated[
        str | None,
        _option(
            "--max-epochs", metavar="VALUES", help="Passes over the training data."
        ),
    ] = None,
    batch_size: Annotated[
        str | None,
        _option("--batch-size", metavar="VALUES", help="Samples per optimizer step."),
    ] = None,
    lr: Annotated[
        str | None, _option("--lr", metavar="VALUES", help="Learning rates.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        _option(
            "--set",
            metavar="KEY=VALUE",
            help="Any setting of all runs, as model.depth=30; repeatable.",
        ),
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(
            "--seeds", metavar="NUMBER", min=1, help="Runs of each combination."
        ),
    ] = 5,
    jobs: Annotated[
        int, typer.Option("--jobs", metavar="NUMBER", min=1, help="Runs at a time.")
    ] = 1,
    log_dir: Annotated[
        str | None,
        _option(
            "--log-dir", metavar="DIRECTORY", help="Where results go (default: runs)."
        ),
    ] = None,
    keep_runs: Annotated[
        bool,
        typer.Option(
            "--keep-runs", help="Keep events and checkpoints.", show_default=False
        ),
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print JSON, not a table.", show_default=False),
    ] = False,
    figure: Annotated[
        str | None,
        _option(
            "--figure", metavar="FILE", help="Draw it too, into a .png, .svg or .pdf."
        ),
    ] = None,
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
