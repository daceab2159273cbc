"""DeepSpeed: its engine shards, accumulates, unscales, clips and steps; this looks on.

ZeRO's optimizers are none of torch's and run no closure, so *after* is not measured: the
engine multiplies all gradients by one number, which follows from their total norm.
Fragments of gradients are looked up as DeepSpeed does itself, and nothing is gathered.
Nothing of DeepSpeed is imported here.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed
from typing_extensions import override

from gradguard.clipping.policy import Policy, in_words
from gradguard.gradients.columns import ParameterColumns, parameters_of
from gradguard.gradients.norms import Gradients, total_norm
from gradguard.gradients.sharding import Shards


def engine_of(trainer: Any, policies: Sequence[Policy], *, stops: str) -> Any:
    """Return the engine of a Trainer whose strategy is DeepSpeed's.

    Args:
        trainer: Whose engine.
        policies: What is to clip.
        stops: What is to stop updates, as one would write it in code; "" if nothing.

    Raises:
        ValueError: If gradguard is to clip, or to stop updates, which the engine does by
            itself where they are not finite.
    """
    if policies:
        raise ValueError(
            f"GradGuard(clip={in_words(policies)}) cannot clip under DeepSpeed, whose "
            "engine does: use Trainer(gradient_clip_val=...)"
        )
    if stops:
        raise ValueError(
            f"GradGuard({stops}) cannot stop an update of DeepSpeed's engine: leave it "
            "at 'record'"
        )
    return trainer.strategy.deepspeed_engine


def at_engine_step(
    engine: Any,
    *,
    before: Callable[[Tensor], None],
    after: Callable[[Callable[[Tensor], Tensor]], None],
) -> Callable[[], None]:
    """Call `before` and `after` around each update of the engine; return the undo.

    Args:
        engine: Steps after every backward pass, and updates after the last of a window.
        before: Given the loss scale, while the gradients are whole and unclipped.
        after: Given a function of the total norm's parts `[P]`, what the engine has
            multiplied all gradients by; not called where the engine skipped the update.
    """
    step = engine.step

    def observed(*args: Any, **kwargs: Any) -> Any:
        updates = engine.is_gradient_accumulation_boundary()
        if updates:
            loss_scale = _loss_scale(engine)
            before(loss_scale)
        result = step(*args, **kwargs)
        if updates and engine.was_step_applied():  # else a gradient was not finite
            after(partial(_coefficient, engine, loss_scale))
        return result

    engine.step = observed
    return lambda: vars(engine).pop("step")


class Fragments(ParameterColumns):
    """The parameters an engine trains, each process holding a part of each gradient.

    ZeRO fills in zeros for a parameter the loss does not reach: its norm is 0.

    Args:
        engine: Of DeepSpeed.
        names: All parameters of the model to their names, in model order.
    """

    def __init__(self, engine: Any, names: Mapping[Tensor, str]) -> None:
        held = _parameters_of(engine.optimizer)
        super().__init__(held, names, Shards(held, engine.module))
        # Without one the optimizer is not sharded, and every gradient is whole.
        self._group = getattr(engine.optimizer, "dp_process_group", None)

    @override
    def are_those_of(self, optimizer: object) -> bool:
        return True  # the engine's own optimizer may hold flattened copies

    @override
    def gradients(self, *, to_clip: bool = False) -> Gradients:
        return Gradients(map(_fragment, self.parameters), whole=self._sum)

    @override
    def row(self, norms: Tensor) -> Tensor:
        return norms

    def _sum(self, norms: Tensor) -> Tensor:
        """Return ||g_i||_2 = sqrt(sum over the processes of ||fragment||_2^2), `[P]`."""
        squares = norms.to(self.parameters[0].device, torch.float64).square()
        if self._group is not None:
            distributed.all_reduce(squares, group=self._group)
        return squares.sqrt().float()


def _parameters_of(optimizer: Any) -> list[Tensor]:
    """Return what an optimizer of the engine's trains; its own groups may be flattened."""
    for groups in ("bit16_groups", "bf16_groups", "fp16_groups"):
        if hasattr(optimizer, groups):
            return [p for group in getattr(optimizer, groups) for p in group]
    return parameters_of(optimizer)


def _fragment(parameter: Any) -> Tensor:
    """Return this rank's part of a gradient, empty if it has none."""
    part: Tensor
    if hasattr(parameter, "ds_id"):  # ZeRO-3
        part = parameter._z3_optimizer.get_local_fp32_grad_for_param(parameter)
        return part
    address = getattr(parameter, "_hp_mapping", None)
    if address is not None:  # ZeRO-1, ZeRO-2, bf16
        part = address.get_lp_grad_fragment(parameter._index_in_param_group).flatten()
        if part.numel() < parameter.numel():
            return part
        own = address.lp_fragment_address  # bf16 has the whole gradient on every rank
        return part[own.start : own.start + own.numel]
    if parameter.grad is None or hasattr(parameter, "_hp_mapping"):
        return torch.empty(0, device=parameter.device)
    gradient: Tensor = parameter.grad
    return gradient


def _loss_scale(engine: Any) -> Tensor:
    return torch.tensor(float(getattr(engine.optimizer, "loss_scale", None) or 1.0))


def _coefficient(engine: Any, loss_scale: Tensor, before: Tensor) -> Tensor:
    """Return min(1, clip / (||g|| + 1e-6)), as the engine has just multiplied by.

    On a step that makes the loss scale grow, the engine divides by the new one already.
    """
    grown = (loss_scale / _loss_scale(engine)).to(before)
    clip = engine.gradient_clipping() or torch.inf
    return grown * (clip / (total_norm(before) * grown + 1e-6)).clamp(max=1.0)
