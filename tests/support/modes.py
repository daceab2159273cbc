"""The modes of one process: a row each, called what `docs/modes.md` calls it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import BackboneFinetuning
from lightning.pytorch.plugins import MixedPrecision
from torch.amp.grad_scaler import GradScaler

from gradguard import ClipNorm, ClipValue, GradGuard
from tests.support.modules import (
    Backbone,
    ClampsByTensorHooks,
    ClipsAfterBackward,
    ClipsAfterBackwardCallback,
    ClipsBeforeStep,
    ClipsBeforeStepCallback,
    ClipsInBackward,
    ClipsInOptimizerStep,
    CompiledPart,
    Complex,
    Frozen,
    Gan,
    GanAtOnce,
    GanNeverToggled,
    HookClipsByImport,
    HookClipsByLightning,
    HookClipsByTorch,
    Manual,
    ManualAccumulation,
    ManualBeforeStep,
    ManualClosure,
    ManualOwnScaler,
    ManualRawAccumulation,
    ManualRawBackward,
    ManualRawBoth,
    ManualRawClosure,
    ManualRawOptimizer,
    ManualRawRetry,
    Net,
    Overflowing,
    Pausing,
    RawGan,
    Sparse,
    SteppingTwice,
    Tied,
    Wrapping,
    fused,
    handwritten_clip,
    imported_clip,
    lbfgs,
    lightning_clip,
    lightning_value_clip,
    nesterov,
    no_clip,
    own_clip,
    torch_clip,
)
from tests.support.oracle import (
    CLIP_VALUE,
    MAX_NORM,
    SCALE,
    Adversaries,
    AdversariesAtOnce,
    ClampingEach,
    EveryEvaluation,
    Loop,
    TwoEpochs,
    by_hand,
    by_norm,
    by_scaled_norm,
    by_value,
)
from tests.support.trainers import trainer

FP32, MIXED, HALF = 1e-5, 1e-3, 4e-2

NORM = {"gradient_clip_val": MAX_NORM}
VALUE = {"gradient_clip_val": CLIP_VALUE, "gradient_clip_algorithm": "value"}
WINDOW = {"accumulate_grad_batches": 3}
OWN_NORM = partial(GradGuard, clip=ClipNorm(MAX_NORM))
OWN_VALUE = partial(GradGuard, clip=ClipValue(CLIP_VALUE))

# The first steps overflow at this scale, and are skipped until it has been halved.
HUGE_SCALE = 2.0**16


@dataclass(frozen=True)
class Row:
    """A mode: a module, the Trainer it trains in, gradguard, and what it should see.

    Args:
        name: Its name in docs/modes.md.
        make: Makes the module.
        oracle: The loop that does the same without Lightning.
        options: Of the Trainer.
        guard: Makes the callback: one that observes, or one that clips.
        callbacks: Make others; `ahead` before gradguard, `behind` after it.
        scale: Initial loss scale; None where there is no gradient scaler.
        skips: Steps the scaler skips.
        rtol: Relative tolerance of every norm.
    """

    name: str
    make: Callable[[], Any]
    oracle: Loop
    options: dict[str, Any] = field(default_factory=dict)
    guard: Callable[[], GradGuard] = GradGuard
    ahead: tuple[Callable[[], Callback], ...] = ()
    behind: tuple[Callable[[], Callback], ...] = ()
    scale: float | None = None
    skips: int = 0
    rtol: float = FP32

    def scaler(self) -> GradScaler:
        enabled = self.scale is not None
        return GradScaler("cpu", init_scale=self.scale or 1.0, enabled=enabled)

    def trainer(self, path: Path) -> Trainer:
        makers = (*self.ahead, self.guard, *self.behind)
        plugins: list[Any] = []
        if self.scale is not None:
            # Lightning turns the string "16-mixed" into bf16-mixed on the CPU.
            plugins = [MixedPrecision("16-mixed", "cpu", self.scaler())]
        callbacks = (make() for make in makers)
        options = {"log_every_n_steps": 4, "plugins": plugins, **self.options}
        return trainer(path, *callbacks, **options)


BF16 = torch.bfloat16
amp = partial(Loop, autocast=torch.float16)
fp16 = partial(Row, scale=SCALE, rtol=MIXED)


def compiled_net() -> Any:
    return torch.compile(Net(), backend="eager")


finetuning = partial(
    BackboneFinetuning,
    unfreeze_backbone_at_epoch=1,
    backbone_initial_lr=0.01,
    lambda_func=lambda _: 1.0,
    should_align=False,
)

OBSERVED = [
    Row("automatic", Net, Loop()),
    Row("automatic_norm", Net, Loop(by_norm), NORM),
    Row("automatic_value", Net, Loop(by_value), VALUE),
    Row("accumulation", Net, Loop(by_norm, window=3), NORM | WINDOW),
    Row("nesterov", partial(Net, nesterov), Loop(by_norm), NORM),
    Row("fused", partial(Net, fused), Loop(by_norm), NORM),
    Row("lbfgs", partial(Net, lbfgs), EveryEvaluation(by_norm), NORM),
    Row("stepping_twice", partial(Net, partial(SteppingTwice, lr=0.05)), Loop()),
    Row("wrapping", partial(Net, Wrapping), Loop(by_norm), NORM),
    Row("no_loss", Pausing, Loop(by_norm, idle=(2, 4)), NORM),
    Row(
        "no_loss_in_window",
        Pausing,
        Loop(by_norm, window=3, idle=(2, 4)),
        NORM | WINDOW,
    ),
    Row("hook_lightning_clip", HookClipsByLightning, Loop(by_norm)),
    Row("hook_torch_clip", HookClipsByTorch, Loop(by_norm)),
    Row("hook_imported_clip", HookClipsByImport, Loop(by_norm)),
    Row("before_step_clip", ClipsBeforeStep, Loop(by_norm)),
    Row("after_backward_clip", ClipsAfterBackward, Loop(by_norm)),
    Row("backward_clip", ClipsInBackward, Loop(by_norm)),
    Row("tensor_hook_clip", ClampsByTensorHooks, ClampingEach(by_value)),
    Row(
        "tensor_hook_clip_accumulation",
        ClampsByTensorHooks,
        ClampingEach(by_value, window=3),
        WINDOW,
    ),
    Row("optimizer_step_clip", ClipsInOptimizerStep, Loop(by_norm)),
    Row(
        "optimizer_step_clip_accumulation",
        ClipsInOptimizerStep,
        Loop(by_norm, window=3),
        WINDOW,
    ),
    Row(
        "callback_ahead_before_step",
        Net,
        Loop(by_norm),
        ahead=(ClipsBeforeStepCallback,),
    ),
    Row(
        "callback_ahead_after_backward",
        Net,
        Loop(by_norm),
        ahead=(ClipsAfterBackwardCallback,),
    ),
    Row(
        "callback_behind_before_step",
        Net,
        Loop(by_norm),
        behind=(ClipsBeforeStepCallback,),
    ),
    Row(
        "callback_behind_after_backward",
        Net,
        Loop(by_norm),
        behind=(ClipsAfterBackwardCallback,),
    ),
    Row("manual", partial(Manual, no_clip), Loop()),
    Row("manual_lightning_clip", partial(Manual, lightning_clip), Loop(by_norm)),
    Row("manual_value", partial(Manual, lightning_value_clip), Loop(by_value)),
    Row("manual_torch_clip", partial(Manual, torch_clip), Loop(by_norm)),
    Row("manual_imported_clip", partial(Manual, imported_clip), Loop(by_norm)),
    Row("manual_handwritten_clip", partial(Manual, handwritten_clip), Loop(by_norm)),
    Row("manual_closure", partial(ManualClosure, lightning_clip), Loop(by_norm)),
    Row(
        "manual_accumulation",
        partial(ManualAccumulation, lightning_clip),
        Loop(by_norm, window=3),
    ),
    Row("raw_backward", partial(ManualRawBackward, no_clip), Loop()),
    Row(
        "raw_backward_lightning_clip",
        partial(ManualRawBackward, lightning_clip),
        Loop(by_norm),
    ),
    Row(
        "raw_backward_torch_clip",
        partial(ManualRawBackward, torch_clip),
        Loop(by_norm),
    ),
    Row(
        "raw_backward_closure",
        partial(ManualRawClosure, imported_clip),
        Loop(by_norm),
    ),
    Row("raw_backward_retry", partial(ManualRawRetry, torch_clip), Loop(by_norm)),
    Row(
        "raw_backward_accumulation",
        partial(ManualRawAccumulation, imported_clip),
        Loop(by_norm, window=3),
    ),
    Row("raw_optimizer", partial(ManualRawOptimizer, torch_clip), Loop(by_norm)),
    Row("raw_both", partial(ManualRawBoth, torch_clip), Loop(by_norm)),
    Row("several_optimizers", partial(Gan, lightning_clip), Adversaries(by_norm)),
    Row(
        "several_optimizers_at_once",
        partial(GanAtOnce, lightning_clip),
        AdversariesAtOnce(by_norm),
    ),
    Row("several_optimizers_raw", partial(RawGan, no_clip), Adversaries()),
    Row("frozen_and_unused", Frozen, Loop(by_norm), NORM),
    Row("tied", Tied, Loop(by_norm), NORM),
    Row("sparse", Sparse, Loop()),
    Row("complex", Complex, Loop(by_norm), NORM),
    Row(
        "added_parameters",
        Backbone,
        TwoEpochs(by_norm),
        NORM | {"max_epochs": 2},
        behind=(finetuning,),
    ),
    Row("compiled", compiled_net, Loop(by_norm), NORM),
    Row("compiled_part", CompiledPart, Loop(by_norm), NORM),
    Row(
        "bf16_mixed",
        Net,
        Loop(by_norm, autocast=BF16),
        NORM | {"precision": "bf16-mixed"},
        rtol=MIXED,
    ),
    Row(
        "bf16_true",
        Net,
        Loop(by_norm, dtype=BF16),
        NORM | {"precision": "bf16-true"},
        rtol=HALF,
    ),
    Row(
        "float64",
        Net,
        Loop(by_norm, dtype=torch.float64),
        NORM | {"precision": "64-true"},
    ),
    fp16("fp16", Net, amp(by_norm), NORM),
    fp16("fp16_skips", Net, amp(by_norm), NORM, scale=HUGE_SCALE, skips=2),
    fp16("fp16_inf_batch", Overflowing, amp(by_norm), NORM, skips=1),
    fp16("fp16_accumulation", Net, amp(by_norm, window=3), NORM | WINDOW),
    fp16("fp16_no_loss", Pausing, amp(by_norm, idle=(2, 4)), NORM),
    fp16("fp16_after_backward_clip", ClipsAfterBackward, amp(by_scaled_norm)),
    fp16("fp16_fused", partial(Net, fused), amp()),
    fp16("fp16_fused_skips", partial(Net, fused), amp(), scale=HUGE_SCALE, skips=2),
    fp16("fp16_manual", partial(Manual, no_clip), amp()),
    fp16(
        "fp16_manual_skips",
        partial(Manual, no_clip),
        amp(),
        scale=HUGE_SCALE,
        skips=2,
    ),
    fp16(
        "fp16_manual_lightning_clip",
        partial(Manual, lightning_clip),
        amp(by_scaled_norm),
    ),
    fp16(
        "fp16_manual_before_step_clip",
        partial(ManualBeforeStep, lightning_clip),
        amp(by_norm),
    ),
]

OWN = [
    Row("own_automatic", Net, Loop(by_norm), guard=OWN_NORM),
    Row("own_value", Net, Loop(by_value), guard=OWN_VALUE),
    Row("own_accumulation", Net, Loop(by_norm, window=3), WINDOW, guard=OWN_NORM),
    Row("own_nesterov", partial(Net, nesterov), Loop(by_norm), guard=OWN_NORM),
    Row("own_fused", partial(Net, fused), Loop(by_norm), guard=OWN_NORM),
    Row("own_lbfgs", partial(Net, lbfgs), EveryEvaluation(by_norm), guard=OWN_NORM),
    Row("own_wrapping", partial(Net, Wrapping), Loop(by_norm), guard=OWN_NORM),
    Row("own_no_loss", Pausing, Loop(by_norm, idle=(2, 4)), guard=OWN_NORM),
    Row("own_manual", partial(Manual, no_clip), Loop(by_norm), guard=OWN_NORM),
    Row(
        "own_manual_closure",
        partial(ManualClosure, no_clip),
        Loop(by_norm),
        guard=OWN_NORM,
    ),
    Row(
        "own_manual_accumulation",
        partial(ManualAccumulation, no_clip),
        Loop(by_norm, window=3),
        guard=OWN_NORM,
    ),
    Row("own_raw_both", partial(ManualRawBoth, no_clip), Loop(by_norm), guard=OWN_NORM),
    Row(
        "own_several_optimizers",
        partial(Gan, no_clip),
        Adversaries(by_norm),
        guard=OWN_NORM,
    ),
    Row("own_frozen_and_unused", Frozen, Loop(by_norm), guard=OWN_NORM),
    Row("own_tied", Tied, Loop(by_norm), guard=OWN_NORM),
    Row("own_sparse", Sparse, Loop(by_hand), guard=OWN_NORM),
    Row("own_complex", Complex, Loop(by_norm), guard=OWN_NORM),
    Row(
        "own_added_parameters",
        Backbone,
        TwoEpochs(by_norm),
        {"max_epochs": 2},
        guard=OWN_NORM,
        behind=(finetuning,),
    ),
    Row("own_compiled", compiled_net, Loop(by_norm), guard=OWN_NORM),
    Row(
        "own_bf16_mixed",
        Net,
        Loop(by_norm, autocast=BF16),
        {"precision": "bf16-mixed"},
        guard=OWN_NORM,
        rtol=MIXED,
    ),
    Row(
        "own_bf16_mixed_fused",
        partial(Net, fused),
        Loop(by_norm, autocast=BF16),
        {"precision": "bf16-mixed"},
        guard=OWN_NORM,
        rtol=MIXED,
    ),
    Row(
        "own_bf16_true",
        Net,
        Loop(by_norm, dtype=BF16),
        {"precision": "bf16-true"},
        guard=OWN_NORM,
        rtol=HALF,
    ),
    Row(
        "own_float64",
        Net,
        Loop(by_norm, dtype=torch.float64),
        {"precision": "64-true"},
        guard=OWN_NORM,
    ),
    fp16("own_fp16", Net, amp(by_norm), guard=OWN_NORM),
    fp16(
        "own_fp16_skips", Net, amp(by_norm), guard=OWN_NORM, scale=HUGE_SCALE, skips=2
    ),
    fp16("own_fp16_no_loss", Pausing, amp(by_norm, idle=(2, 4)), guard=OWN_NORM),
    fp16("own_fp16_fused", partial(Net, fused), amp(by_norm), guard=OWN_NORM),
    fp16(
        "own_fp16_fused_skips",
        partial(Net, fused),
        amp(by_norm),
        guard=OWN_NORM,
        scale=HUGE_SCALE,
        skips=2,
    ),
    fp16("own_fp16_manual", partial(Manual, no_clip), amp(by_norm), guard=OWN_NORM),
    fp16(
        "own_fp16_manual_skips",
        partial(Manual, no_clip),
        amp(by_norm),
        guard=OWN_NORM,
        scale=HUGE_SCALE,
        skips=2,
    ),
]

NOT_SEEN = [
    Row(
        "never_toggled",
        partial(GanNeverToggled, own_clip),
        AdversariesAtOnce(by_norm),
    ),
    Row("own_scaler", partial(ManualOwnScaler, own_clip), Loop(by_norm)),
]
