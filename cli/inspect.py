"""`gradguard inspect`: one backward pass before any training, layer by layer."""

from functools import partial
from typing import Annotated

from gradguard.cli.options import Config, Figure, Json, Model, flag, text


def inspect(
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
    batch_size: Annotated[
        str | None,
        text("--batch-size", metavar="NUMBER", help="Samples of the pass."),
    ] = None,
    full_batch: Annotated[
        bool,
        flag("--full-batch", help="Take all training rows."),
    ] = False,
    seed: Annotated[
        str | None,
        text("--seed", metavar="NUMBER", help="Of weights and batch (default: 0)."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        text(
            "--set",
            metavar="KEY=VALUE",
            help="A setting, as model.depth=30, or an argument of MODULE:CLASS.",
        ),
    ] = None,
    as_json: Json = False,
    figure: Figure = None,
) -> None:
    """Pass one batch forward and backward, and show each layer's gradient norm.

    Nothing is trained: this is what the initialisation alone makes of gradients.
    """
    from gradguard.experiments.resolve import resolve
    from gradguard.inspection.command import Wanted, inspect

    wanted = Wanted(as_json=as_json, figure=figure)
    if module is None:
        shorthands = {"data.batch_size": batch_size, "seed": seed}
        given = [
            f"{key}={text}" for key, text in shorthands.items() if text is not None
        ]
        experiment = resolve(
            config=config,
            assignments=[*(settings or ()), *given],
            values={"model.name": model},
        )
        # torch takes seconds to import; a wrong name is told before.
        from gradguard.inspection.subjects import inspect_experiment

        inspect(partial(inspect_experiment, experiment, full_batch=full_batch), wanted)
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
        inspect(
            partial(
                inspect_module,
                module,
                arguments=settings or (),
                seed="0" if seed is None else seed,
            ),
            wanted,
        )
