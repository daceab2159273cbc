"""What a user should know before training starts: one sentence each, what to do in it."""

from collections.abc import Iterator, Sequence
from typing import Any

from gradguard.clipping.policy import Policy, in_words
from gradguard.clipping.spec import as_data
from gradguard.fit.wanted import Wanted
from gradguard.gradients.columns import parameters_of
from gradguard.hooks.overrides import overrides
from gradguard.names import named
from gradguard.records.clips import ClipData, by_trainer


def cautions(trainer: Any, module: Any, policies: Sequence[Policy]) -> Iterator[str]:
    """Yield what looks like a mistake in how training is set up.

    Args:
        trainer: A Trainer of either namespace of Lightning, about to train.
        module: Its LightningModule.
        policies: What gradguard clips with; empty if it only observes.
    """
    if not policies and not trainer.loggers:
        yield (
            "GradGuard has nowhere to write to, because the Trainer has no logger: "
            "give it one, such as Trainer(logger=True)"
        )
    if policies and overrides(module, "configure_gradient_clipping"):
        yield (
            f"GradGuard(clip={in_words(policies)}) clips after "
            f"{type(module).__name__}.configure_gradient_clipping, so `before` is what "
            "that leaves: let one of them clip"
        )
    free = unoptimized(trainer, module)
    if free:
        yield (
            f"no optimizer holds {named(free)}, so nothing "
            "trains or records them: give them to one in configure_optimizers, or "
            "freeze them with requires_grad_(False)"
        )


def unoptimized(trainer: Any, module: Any) -> tuple[str, ...]:
    """Return the names of trainable parameters that no optimizer holds."""
    held = {p for optimizer in trainer.optimizers for p in parameters_of(optimizer)}
    return tuple(
        name
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and parameter not in held
    )


def clip_data(trainer: Any, policies: Sequence[Policy]) -> ClipData:
    """Return what clips, as far as it is known."""
    if policies or not trainer.gradient_clip_val:
        return as_data(policies)
    algorithm = getattr(trainer.gradient_clip_algorithm, "value", None) or "norm"
    return by_trainer(float(trainer.gradient_clip_val), str(algorithm))


def clips_scaled(optimizer: object) -> str:
    """Return what to say of a clip call on gradients that the loss scale multiplies."""
    return (
        f"clip_gradients({type(optimizer).__name__}) clips gradients that are still "
        "multiplied by the loss scale, so the threshold in force is the one you gave "
        "divided by that scale (Lightning issue 18089): clip in the module's "
        "on_before_optimizer_step, where they are not, or let GradGuard(clip=...) clip"
    )


def clips_too(policies: Sequence[Policy]) -> str:
    """Return what to say of a clip call where gradguard clips as well."""
    return (
        f"clip_gradients was called where GradGuard(clip={in_words(policies)}) clips "
        "as well, so `before` is what that call leaves: let one of them clip"
    )


def no_statistics() -> str:
    """Return what to say of statistics by epoch where DeepSpeed holds the weights."""
    return (
        "GradGuard(layer_statistics=True) writes none under DeepSpeed, whose engine "
        "keeps weights and gradients in fragments of its own; norms are recorded"
    )


def unlisted() -> str:
    """Return what to say of a GradGuard that the Trainer does not know."""
    return (
        "this GradGuard is called by another callback and is not among the Trainer's, "
        "so it records nothing: give it to Trainer(callbacks=[...])"
    )


def missed(optimizer: object, wanted: Wanted) -> str:
    """Return what to say of a step that takes no notice of its closure."""
    lacks = f"{wanted.asks} had no effect" if wanted.asks else "nothing was recorded"
    return (
        f"{type(optimizer).__name__}.step does not call the closure it is given, so "
        f"{lacks} at its first update; GradGuard takes the next ones as the step begins"
    )


def unseen(optimizer: object, wanted: Wanted) -> str:
    """Return what to say of an optimizer whose parameters change, unseen."""
    lacks = (
        f"{wanted.asks} has no effect on it" if wanted.asks else "it is not recorded"
    )
    return (
        f"GradGuard has seen no update of {type(optimizer).__name__} with a gradient, "
        f"though its parameters change, so {lacks}: something else updates them, past "
        "`Optimizer.step` of torch"
    )


def unseen_parameters(names: Sequence[str], wanted: Wanted) -> str:
    """Return what to say of parameters of no optimizer that change all the same."""
    lacks = (
        f"{wanted.asks} has no effect on them"
        if wanted.asks
        else "they are not recorded"
    )
    return (
        f"GradGuard has seen no update of {named(names)}, which no optimizer of the "
        f"Trainer holds, though they change, so {lacks}: return an optimizer of them "
        "from configure_optimizers"
    )


def updates_elsewhere(kind: str, names: Sequence[str], wanted: Wanted) -> str:
    """Return what to say of optimizers that step where gradguard cannot follow."""
    lacks = (
        f"{wanted.asks} has no effect there" if wanted.asks else "that is not recorded"
    )
    return (
        f"{kind} updates {named(names)} "
        "inside the backward pass, or is one of many optimizers that the Trainer does "
        f"not know, so {lacks}: return one optimizer of them all from "
        "configure_optimizers"
    )


def nothing_recorded(error: Exception) -> str:
    """Return what to say where an observer cannot even begin."""
    return (
        f"GradGuard records nothing in this fit ({type(error).__name__}: {error}); "
        "training goes on as without it"
    )
