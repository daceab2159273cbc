"""`gradguard.replay()`: a dump in, what broke the step out."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule

from gradguard.replay.investigate import investigate
from gradguard.replay.load import load
from gradguard.replay.rebuild import copied, rebuilt
from gradguard.replay.replayed import Replayed, facts, notes
from gradguard.replay.reproduced import differences
from gradguard.replay.rerun import Rerun, is_broken
from gradguard.replay.stage import Stage, on_stage


def replay(
    dump: str | Path,
    module: LightningModule | str | None = None,
    *,
    arguments: Iterable[str] = (),
    trust: bool = False,
    progress: Callable[[], None] | None = None,
) -> Replayed:
    """Run a bad step again: was it reproduced, and what broke it.

    The step runs on a real Trainer, on a device of the kind it was saved on or else on
    the CPU. What a module needs from its run beyond batch, weights and Trainer, such as a
    datamodule or another callback, is not there.

    Args:
        dump: What `GradGuard(dump_dir=...)` has saved.
        module: A module of the class that was trained, which stays as it is, or
            "package.module:Class"; None takes the class the dump names.
        arguments: For the constructor of the class, as "depth=30", where the dump has no
            hyperparameters or other ones.
        trust: Whether whoever wrote the dump may run code here, which a batch with
            objects of classes of its own needs.
        progress: Called after each of some dozens of runs of the step.

    Raises:
        ConfigError: If the dump cannot be read, or the module is not to be had or does
            not fit.

    Examples:
        >>> import gradguard
        >>> found = gradguard.replay("bad-steps/bad-step-41-rank-0.pt")  # doctest: +SKIP
        >>> found.reproduced, found.cause.name, found.cause.line  # doctest: +SKIP
    """
    file = Path(dump)
    bad = load(file, trust=trust)
    live: Any = (
        rebuilt(bad, module, arguments)
        if module is None or isinstance(module, str)
        else copied(module)
    )

    def act(stage: Stage) -> Replayed:
        rerun = Rerun(live, stage.run, stage.batches, wide=stage.wide)
        breaks_before = is_broken(rerun())
        stage.finish()
        changed = differences(bad, live)
        rerun.restore()
        if not (breaks_before or bad.is_finite):  # so it is a hook of the update's
            rerun = Rerun(live, stage.run_to_update, stage.batches, wide=stage.wide)
        found = investigate(
            rerun,
            loss_scale=stage.loss_scale,
            spike=bad.is_finite,
            progress=progress,
        )
        return Replayed(
            **facts(bad, file),
            module=type(live).__qualname__,
            differences=tuple(changed),
            notes=notes(bad, live, stage.device),
            outcome=found.outcome,
            cause=found.cause,
            samples=found.samples,
            precision=found.precision,
        )

    return on_stage(bad, live, act)
