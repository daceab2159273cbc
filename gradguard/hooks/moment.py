"""Which moment gives the norms before clipping, in which mode: one table.

*Before*: gradients are complete and nobody has touched them. Lightning has a hook for that
moment in the plain case only; docs/modes.md shows the same table.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from gradguard.hooks.overrides import overrides


class Moment(NamedTuple):
    """An instant of a training step.

    Attributes:
        name: What docs/modes.md calls it.
        where: The place it has in Lightning.
    """

    name: str
    where: str


ENGINE_STEP = Moment("engine", "DeepSpeed's `engine.step`, on entry")
UPDATE = Moment("update", "the parameter update, in the pass that clips")
BACKWARD_END = Moment(
    "end", "the end of the backward pass itself, divided by the loss scale"
)
AFTER_BACKWARD = Moment("backward", "`on_after_backward`, divided by the loss scale")
BEFORE_OPTIMIZER_STEP = Moment(
    "step",
    "`on_before_optimizer_step`: gradients are reduced over processes and unscaled",
)
MOMENTS = (ENGINE_STEP, UPDATE, BACKWARD_END, AFTER_BACKWARD, BEFORE_OPTIMIZER_STEP)


@dataclass(frozen=True)
class Mode:
    """A fit as far as it decides the moment.

    Attributes:
        trainer: A Trainer of either namespace of Lightning, about to train.
        module: Its LightningModule.
        callback: The GradGuard, for its place among the Trainer's callbacks.
        clips: Whether gradguard clips.
    """

    trainer: Any
    module: Any
    callback: object
    clips: bool

    @property
    def ahead(self) -> list[Any]:
        """Callbacks that Lightning calls before the GradGuard."""
        everyone: list[Any] = self.trainer.callbacks
        return everyone[: everyone.index(self.callback)]

    @property
    def behind(self) -> list[Any]:
        """Callbacks that Lightning calls after the GradGuard."""
        everyone: list[Any] = self.trainer.callbacks
        return everyone[everyone.index(self.callback) + 1 :]


class Row(NamedTuple):
    """A row of the table.

    Attributes:
        mode: Which fits it is about, in words.
        holds: Whether a fit is one of them.
        moment: When nobody has touched their gradients yet.
    """

    mode: str
    holds: Callable[[Mode], bool]
    moment: Moment


def _any_has(hook: str, who: list[Any]) -> bool:
    return any(overrides(each, hook) for each in who)


# The first row that holds decides.
TABLE = (
    Row(
        "DeepSpeed's engine trains",
        lambda fit: getattr(fit.trainer.strategy, "deepspeed_engine", None) is not None,
        ENGINE_STEP,
    ),
    Row("`GradGuard(clip=...)` clips", lambda fit: fit.clips, UPDATE),
    Row(
        "A callback listed before gradguard has `on_after_backward`",
        lambda fit: _any_has("on_after_backward", fit.ahead),
        BACKWARD_END,
    ),
    Row(
        "The module has `backward`",
        lambda fit: overrides(fit.module, "backward"),
        BACKWARD_END,
    ),
    Row(
        "Manual optimisation",
        lambda fit: not fit.module.automatic_optimization,
        AFTER_BACKWARD,
    ),
    Row(
        "The module has `optimizer_step`",
        lambda fit: overrides(fit.module, "optimizer_step"),
        AFTER_BACKWARD,
    ),
    Row(
        "The module, or a callback listed after gradguard, has `on_after_backward`",
        lambda fit: _any_has("on_after_backward", [fit.module, *fit.behind]),
        AFTER_BACKWARD,
    ),
    Row(
        "A callback listed before gradguard has `on_before_optimizer_step`",
        lambda fit: _any_has("on_before_optimizer_step", fit.ahead),
        AFTER_BACKWARD,
    ),
    Row("Any other", lambda _: True, BEFORE_OPTIMIZER_STEP),
)


def moment_of(mode: Mode) -> Moment:
    """Return the moment at which nobody has touched a fit's gradients yet."""
    return next(row.moment for row in TABLE if row.holds(mode))
