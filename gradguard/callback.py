"""GradGuard: at each moment measure, clip and keep; at the log cadence write."""

import warnings
from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Any
from weakref import ref

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer
from typing_extensions import override

from gradguard.clipping.policy import Clip, State, in_order, in_words
from gradguard.fit.cautions import nothing_recorded, unlisted
from gradguard.fit.herald import Herald
from gradguard.fit.rehearsal import Rehearsal
from gradguard.fit.tally import Tally
from gradguard.fit.wanted import Wanted, settings_of, together
from gradguard.fit.watch import Memory, Watch
from gradguard.guard.action import Action
from gradguard.guard.spike import Spike, spike

_CHECKPOINT_KEY = "gradguard"

# What Lightning binds to every callback as a fit begins, and with it the whole model.
_OF_THE_MODULE = frozenset({"log", "log_dict"})


class GradGuard(Callback):
    """Record every parameter's gradient L2 norm before and after clipping.

    Whoever clips is observed: `Trainer(gradient_clip_val=...)`, an overridden
    `configure_gradient_clipping`, another callback, nobody. With `clip`, gradguard
    clips by itself, in the same pass in which it measures. Without `clip` training is
    bit-identical to training without the callback; where the Trainer's clip by norm is all
    that touches gradients on a CPU, it is done in such a pass too, as torch would do it.

    Every optimizer step is recorded on the device. The records cross to the host in
    one copy and are written every `trainer.log_every_n_steps` steps, with a checkpoint,
    at the end, on an exception, and at once when a step turns non-finite or far above
    the recent median (where gradients are on the CPU and looking is free).

    Logged, to the run of the Trainer's logger. Norms are L2, in units of loss per unit
    of parameter; "total" is over all parameters of one optimizer; an interval is the
    steps since the last write.

    - `gradguard/total_before`: total before clipping, at the last step
    - `gradguard/total_before_max`: largest total before clipping in the interval
    - `gradguard/total_after`: total the instant before the update, last step
    - `gradguard/coefficient_min`: smallest after/before of the total, 0 to 1
    - `gradguard/clip_fraction`: share of steps on which the clip fired, 0 to 1
    - `gradguard/nonfinite_steps`: number of steps with a NaN or Inf gradient
    - `gradguard/skipped_steps`: number of steps gradguard kept from the update; left
      out of the lines above but `nonfinite_steps`
    - `gradguard/amp_skipped`: number of steps the gradient scaler skipped; the lines
      above leave these out
    - `gradguard/loss_scale`: what the gradient scaler multiplies the loss by, where
      there is one
    - `gradguard/threshold`: threshold in force, as given or learned; of several each,
      with what tells them apart behind the name
    - `gradguard/norms/<hash>`: tensor `[K, P, 2]`: every parameter's norm before and
      after, at every step of the interval
    - `gradguard/steps/<hash>`: tensor `[K]`: optimizer steps completed before
    - `gradguard/loss/<hash>`: tensor `[K]`: loss of the step's last batch
    - `gradguard/epochs/<hash>`: with `layer_statistics`: tensor `[E, P, 6]`, what
      `gradguard.records.recording.Epochs` holds
    - `gradguard/epoch_numbers/<hash>`: tensor `[E]`: -1 before training, then 0, 1, ...
    - `gradguard/saved_step/<hash>`: with `dump_dir`: text, where the first bad step is saved
    - `gradients/<parameter>`: a norm at the last step, in the runs `before` and `after`
      below the run, up to `max_scalars`

    A TensorBoardLogger gets all of it, any other logger the scalars `gradguard/...`.
    Of several optimizers, each has its own, with `/optimizer_<i>` behind the scalars'
    names. What policies have learned is in the checkpoints.
    `gradguard.tensorboard.reader.read_run` gives the tensors back.

    With `on_nonfinite="skip"` a step with a NaN or an Inf in a gradient is as if it had
    not been: parameters and optimizer state stay bit-identical, on all processes, and a
    warning names the culprits. Counters of steps go on, buffers such as running means
    keep what the forward pass put there. Steps that a gradient scaler skips are its own
    affair and no alarm. Deciding costs one sync with the accelerator per step. With
    `on_spike="skip"` the same is done with a step whose gradients are finite, and the
    total norm before clipping, or the loss, far above the recent ones (see `Spike`).

    Args:
        clip: A policy such as `ClipNorm(5.0)`, or several applied in the order given.
            None observes only.
        every_n_steps: Write every n-th step; the largest and the first non-finite step
            of each interval are written besides, so no spike is lost.
        max_scalars: Write scalars per parameter while there are at most this many
            parameters; 0 for none.
        on_nonfinite: "record" a step that is not finite, "skip" its update, or "raise".
        on_spike: The same of a finite step whose total norm or loss is far above the
            recent ones; an action, or a `Spike` that says how far.
        max_consecutive_skips: After so many skips in a row, the next non-finite step
            raises, and the next spike counts as usual.
        dump_dir: Where to save the first bad step of each kind, with all it takes for
            `gradguard replay` to run it again. None saves nothing.
        layer_statistics: Also write, for each parameter, mean and standard deviation of
            weights and gradients, mean |gradient| and how far the update moved the
            weights: before training and at the end of each epoch.
        verdict: Say on stderr, when the fit ends, what is wrong, since when, where, and
            what to do, in at most six lines, and in one line when the first gradient that
            is not finite reaches the weights. Where nothing is found and the Trainer has
            no progress bar, nothing is said.

    Raises:
        TypeError: If `clip` holds something that is not a policy.
        ValueError: If `every_n_steps` is below 1, `max_scalars` is negative, or
            `on_nonfinite`, `on_spike` or what belongs to them is out of range; at the start of a
            fit, if the Trainer clips as well or a pattern of `clip` matches no
            parameter.

    Examples:
        >>> from lightning.pytorch import Trainer
        >>> from gradguard import ClipNorm, GradGuard
        >>> observer = GradGuard()  # Trainer(gradient_clip_val=5.0, callbacks=[observer])
        >>> clipper = GradGuard(clip=ClipNorm(5.0))  # Trainer(callbacks=[clipper])
    """

    def __init__(  # noqa: PLR0913 (the options of the product)
        self,
        clip: Clip = None,
        *,
        every_n_steps: int = 1,
        max_scalars: int = 50,
        on_nonfinite: Action = "record",
        on_spike: Action | Spike = "record",
        max_consecutive_skips: int = 10,
        dump_dir: str | Path | None = None,
        layer_statistics: bool = False,
        verdict: bool = True,
    ) -> None:
        self.clip = clip
        self.policies = in_order(clip)
        self.every_n_steps = every_n_steps
        self.max_scalars = max_scalars
        self.on_nonfinite = on_nonfinite
        self.on_spike = spike(on_spike)
        self.max_consecutive_skips = max_consecutive_skips
        self.dump_dir = dump_dir
        self.layer_statistics = layer_statistics
        self.verdict = verdict
        settings_of(self)  # refuses what is out of its range here, not in mid-fit
        self._watch: Watch | None = None
        self._rehearsal: Rehearsal | None = None
        self._herald: Herald | None = None
        self._learned: Sequence[State] = []
        self._last_steps: Sequence[int] = []
        self._loaded = False
        self._trainer: ref[Trainer] | None = None

    @property
    def tally(self) -> Tally | None:
        """How the fit under way is going, as of its last write; None outside of one."""
        loggers = self._watch.fit.loggers if self._watch else None
        return loggers.tally if loggers else None

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if self.policies and trainer.gradient_clip_val:
            raise ValueError(
                f"GradGuard(clip={in_words(self.policies)}) and Trainer("
                f"gradient_clip_val={trainer.gradient_clip_val!r}) would both clip: "
                "give one of them"
            )
        self._close()  # of a fit that ended without a word
        if self._trainer is None or self._trainer() is not trainer:
            self._learned, self._last_steps, self._loaded = [], [], False
        wanted = self._wanted_of(trainer)
        if wanted and not wanted.observes:
            self._rehearsal = Rehearsal(trainer, pl_module, self, wanted)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close()
        if self not in trainer.callbacks:  # type: ignore[attr-defined] # set by a connector
            warnings.warn(unlisted(), stacklevel=2)
        wanted = self._wanted_of(trainer)
        if wanted is None:
            return
        try:
            self._watch = Watch(trainer, pl_module, self, wanted)
        except Exception as error:
            if not wanted.observes:
                raise
            warnings.warn(nothing_recorded(error), stacklevel=2)
            return
        # Training goes on: `fit` is called again, or a checkpoint was loaded.
        if self._loaded or (self._trainer and self._trainer() is trainer):
            self._watch.recall(Memory(self._learned, self._last_steps))
        self._loaded, self._trainer = False, ref(trainer)

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._watch:
            self._watch.on_batch_start(batch, batch_idx)

    @override
    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._watch:
            self._watch.on_after_backward()

    @override
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        if self._watch:
            self._watch.on_before_optimizer_step(optimizer)

    @override
    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if self._watch:
            self._watch.on_batch_end(outputs)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._watch:
            self._watch.on_epoch_end()

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self._watch:
            self._watch.write()
            self._learned, self._last_steps = self._watch.memory()
        # Not by `state_dict`, of which Lightning lets one callback of a class have one:
        # `gradguard.attach` may add a second GradGuard.
        ahead = any(step >= trainer.global_step for step in self._last_steps)
        if ahead or any(self._learned):  # else the Trainer's own count says it all
            memory = Memory(self._learned, self._last_steps)
            checkpoint[_CHECKPOINT_KEY] = memory._asdict()

    @override
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        saved = checkpoint.get(_CHECKPOINT_KEY, {})
        if isinstance(saved, list):  # as 0.1.0 wrote it
            saved = {"learned": saved}
        memory = Memory(**saved)
        self._learned, self._last_steps = memory
        self._loaded = self._watch is None
        if self._watch:  # in mid-fit, as tuners do behind their trials
            self._watch.recall(memory)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close()

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._close()  # Lightning calls no other hook on this way out
        self._tell()
        self._let_go()

    @override
    def teardown(
        self, trainer: Trainer, pl_module: LightningModule, stage: str
    ) -> None:
        self._close()  # and only this one when the tuner ends a trial
        self._tell()
        self._let_go()

    @override
    def __repr__(self) -> str:
        """Return what was given, as one would write it in code."""
        usual = vars(GradGuard())
        given = {
            name: vars(self)[name]
            for name in signature(GradGuard).parameters
            if vars(self)[name] != usual[name]
        }
        changed = (
            f"{name}={value!r}"
            for name, value in given.items()
            if value or usual[name]  # an empty list clips as little as None
        )
        return f"GradGuard({', '.join(changed)})"

    def __getstate__(self) -> dict[str, Any]:
        state = {**vars(self), "_watch": None, "_rehearsal": None, "_trainer": None}
        state["_herald"] = None
        return {key: state[key] for key in state.keys() - _OF_THE_MODULE}

    def _tell(self) -> None:
        """Say the verdict, now that no progress bar is in its way."""
        herald, self._herald = self._herald, None
        if herald:
            herald.tell()

    def _let_go(self) -> None:
        """Do not keep the module alive beyond the fit."""
        for name in _OF_THE_MODULE:
            vars(self).pop(name, None)

    def _wanted_of(self, trainer: Trainer) -> Wanted | None:
        """Return what all GradGuards of a Trainer want; None where another one does it."""
        everyone: list[Any] = trainer.callbacks  # type: ignore[attr-defined] # set by a connector
        guards = [callback for callback in everyone if isinstance(callback, GradGuard)]
        if not guards or self is not guards[0]:
            return None
        return together(list(map(settings_of, guards)))

    def _close(self) -> None:
        watch, self._watch = self._watch, None
        if watch:
            self._herald = watch.herald
            self._learned, self._last_steps = watch.memory()
            watch.close()
        rehearsal, self._rehearsal = self._rehearsal, None
        if rehearsal:
            rehearsal.close()
