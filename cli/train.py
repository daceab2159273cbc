"""`gradguard train`: run one experiment."""

import os
from typing import Annotated

import typer

from gradguard.cli.options import (
    BatchSize,
    ClipNorm,
    ClipOrder,
    ClipValue,
    Config,
    LogDir,
    Lr,
    MaxEpochs,
    Model,
    PerParameter,
    Seed,
    Set,
    assigned,
    flag,
    text,
)
from gradguard.clipping.spec import EXAMPLES


def train(
    context: typer.Context,
    *,
    model: Model = None,
    config: Config = None,
    clip_norm: ClipNorm = None,
    clip_value: ClipValue = None,
    clip_order: ClipOrder = None,
    per_parameter: PerParameter = False,
    clip: Annotated[
        list[str] | None,
        text(
            "--clip",
            metavar="POLICY",
            help=f"{EXAMPLES}; repeatable.",
        ),
    ] = None,
    clip_by_name: Annotated[
        list[str] | None,
        text(
            "--clip-by-name",
            metavar="PATTERN=POLICY",
            help="For some parameters only, as 'rnn.*=value:10'; repeatable.",
        ),
    ] = None,
    on_nonfinite: Annotated[
        str | None,
        text(
            "--on-nonfinite",
            metavar="ACTION",
            help="At a NaN or Inf gradient: record (default), skip or raise.",
        ),
    ] = None,
    on_spike: Annotated[
        str | None,
        text(
            "--on-spike",
            metavar="ACTION",
            help="At a norm or loss far above the recent ones: record (default), skip or "
            "raise; 'skip:8' sets sigma (default: 6).",
        ),
    ] = None,
    max_consecutive_skips: Annotated[
        str | None,
        text(
            "--max-consecutive-skips",
            metavar="NUMBER",
            help="More skips in a row than this end the run (default: 10).",
        ),
    ] = None,
    dump_dir: Annotated[
        str | None,
        text(
            "--dump-dir",
            metavar="DIRECTORY",
            help="Save there what `gradguard replay` needs of the first such step.",
        ),
    ] = None,
    layer_statistics: Annotated[
        bool,
        flag("--layer-statistics", help="Record weights and gradients by epoch."),
    ] = False,
    accelerator: Annotated[
        str | None,
        text("--accelerator", metavar="NAME", help="auto, cpu, gpu, cuda, mps or tpu."),
    ] = None,
    devices: Annotated[
        str | None,
        text("--devices", metavar="NUMBER", help="How many, or which: 2; 0,1; auto."),
    ] = None,
    num_nodes: Annotated[
        str | None, text("--num-nodes", metavar="NUMBER", help="How many machines.")
    ] = None,
    strategy: Annotated[
        str | None,
        text("--strategy", metavar="NAME", help="Lightning's: auto, ddp, fsdp, ..."),
    ] = None,
    precision: Annotated[
        str | None,
        text(
            "--precision",
            metavar="NAME",
            help="32-true, 16-mixed, bf16-mixed, 64-true, ...",
        ),
    ] = None,
    max_epochs: MaxEpochs = None,
    batch_size: BatchSize = None,
    lr: Lr = None,
    optimizer: Annotated[
        str | None,
        text("--optimizer", metavar="NAME", help="sgd, adam, adamw or rmsprop."),
    ] = None,
    weight_decay: Annotated[
        str | None,
        text("--weight-decay", metavar="NUMBER", help="Weight decay of the optimizer."),
    ] = None,
    seed: Seed = None,
    log_dir: LogDir = None,
    log_every_n_steps: Annotated[
        str | None,
        text(
            "--log-every-n-steps",
            metavar="NUMBER",
            help="Steps between writes (default: 1).",
        ),
    ] = None,
    resume: Annotated[
        str | None,
        text(
            "--resume",
            metavar="CHECKPOINT",
            help="Go on from an earlier run's checkpoint.",
        ),
    ] = None,
    settings: Set = None,
) -> None:
    """Train a model; record its gradients before and after clipping.

    Settings come from the model's own config, then --config, then --set, then the other
    options; the last one counts.
    """
    from gradguard.experiments.resolve import clip_list, resolve

    experiment = resolve(
        config=config,
        assignments=[*(settings or ()), *assigned(context)],
        values={
            "model.name": model,
            "log_dir": log_dir,
            "layer_statistics": layer_statistics or None,
            "clip": clip_list(
                clip_norm,
                clip_value,
                order=clip_order,
                per_parameter=per_parameter,
                more=clip or (),
                by_name=clip_by_name or (),
            ),
        },
    )
    # torch takes seconds to import; a wrong name is told before.
    from gradguard.cli.summary import show
    from gradguard.experiments.run import run
    from gradguard.output import plain_console

    outcome = run(experiment, resume=resume and os.path.expanduser(resume))  # noqa: PTH111 (a Path may raise)
    if outcome is not None:
        show(outcome, plain_console())
