"""`gradguard inspect`: one backward pass before any training, layer by layer."""

from functools import partial
from typing import Annotated

import typer

from gradguard.cli.options import (
    BatchSize,
    Config,
    Figure,
    Json,
    Model,
    Seed,
    Set,
    assigned,
    flag,
    text,
)


def inspect(
    context: typer.Context,
    *,
    model: Model = None,
    config: Config = None,
    module: Annotated[
        str | None,
        text(
            "--module",
            metavar="MODULE:CLASS",
            help="A LightningModule of yours, as package.module:Class.",
        ),
    ] = None,
    batch_size: BatchSize = None,
    full_batch: Annotated[
        bool,
        flag("--full-batch", help="Take all training rows."),
    ] = False,
    seed: Seed = None,
    settings: Set = None,
    as_json: Json = False,
    figure: Figure = None,
) -> None:
    """Show each layer's gradient norm before any training.

    One batch is passed forward and backward: this is what the initialisation alone
    makes of gradients. With --module, each --set gives an argument of the class.
    """
    from gradguard.inspection import command

    if module is None:
        from gradguard.experiments.resolve import resolve

        experiment = resolve(
            config=config,
            assignments=[*(settings or ()), *assigned(context)],
            values={"model.name": model},
        )
        # torch takes seconds to import; a wrong name is told before.
        from gradguard.inspection.subjects import inspect_experiment

        make = partial(inspect_experiment, experiment, full_batch=full_batch)
    else:
        from gradguard.inspection.module import inspect_module, require_unused

        require_unused(
            {
                "--model": model,
                "--config": config,
                "--batch-size": batch_size,
                "--full-batch": full_batch or None,
            }
        )
        arguments, seed = settings or (), "0" if seed is None else seed
        make = partial(inspect_module, module, arguments=arguments, seed=seed)
    command.inspect(make, as_json=as_json, figure=figure)
