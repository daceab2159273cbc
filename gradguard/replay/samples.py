"""Which samples of the batch do it: those that break, or that carry most of a spike."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from gradguard.gradients.norms import plain
from gradguard.gradients.sharding import local
from gradguard.replay.batch import picked, size, tensors
from gradguard.replay.cause import Outcome, Sample, Samples
from gradguard.replay.dropout import NoDropout
from gradguard.replay.rerun import Rerun, is_broken

Key = tuple[int, int]  # micro-batch, sample in it
Gradients = Mapping[str, Tensor]

_FEW = 5  # samples that a spike may be blamed on
_HALF = 0.5  # of the gradient, and these samples are to blame
_LAYERS = 3  # told of each sample
_MANY = 32  # samples that break, and no more are looked for
_TRIED = 4  # samples of which it is tried whether they add up
_CLOSE = 1e-2  # of the gradient: half precision, and sums in another order

_TOGETHER = (
    "samples of this batch act together (batch statistics, a loss over the batch, or "
    "random numbers)"
)


def samples(rerun: Rerun, *, spike: bool = False) -> Samples:
    """Return which samples break the step, or carry most of its gradient.

    Samples are run apart, from the same random state, without dropout. Those that break
    are found by halving. Where samples act together, the gradients of samples do not add
    up to that of their batch, and each is tried beside samples that are fine.

    Args:
        rerun: The step.
        spike: Whether the step is finite, and its gradient is what is asked about; this
            takes a run for each sample.
    """
    apart = _Apart(rerun)
    try:
        caveat = apart.why_not()
        if caveat:
            return apart.told([], caveat, count=0)
        return _carriers(apart) if spike else _breakers(apart)
    except Exception as error:  # of the user's code, which may not take fewer samples
        return apart.told([], f"samples cannot be run apart: {error}")
    finally:
        rerun.restore()


class _Apart:
    """Run any samples of a step, and no others.

    Attributes:
        keys: All samples.
    """

    def __init__(self, rerun: Rerun) -> None:
        self._rerun = rerun
        self._runs_before = rerun.runs
        self._dropout_off = True
        self._dropped = False
        self.keys: list[Key] = [
            (position, sample)
            for position, batch in rerun.batches.items()
            for sample in range(size(batch) or 0)
        ]

    def why_not(self) -> str:
        """Return why a batch cannot be split; "" if it can."""
        for batch in self._rerun.batches.values():
            if size(batch) is None:
                sizes = {t.shape[0] if t.dim() else 0 for _, t in tensors(batch)}
                found = " and ".join(map(str, sorted(sizes))) or "no tensors"
                return (
                    "the batch cannot be split into samples: first dimensions of its "
                    f"tensors should agree, got {found}"
                )
        return ""

    def keep_dropout(self) -> None:
        """Run samples with dropout from now on."""
        self._dropout_off = False

    def run(self, keys: Sequence[Key]) -> Outcome:
        """Return how the step ends on these samples."""
        try:
            return self._run(keys)
        except Exception:  # of the user's code: batch norm does not take one sample
            if len(keys) > 1:
                raise
            return self._run([*keys, *keys])

    def _run(self, keys: Sequence[Key]) -> Outcome:
        batches = {
            position: picked(batch, [s for at, s in keys if at == position])
            for position, batch in self._rerun.batches.items()
            if any(at == position for at, _ in keys)
        }
        mode = NoDropout() if self._dropout_off else None
        outcome = self._rerun(batches, under=mode)
        self._dropped = self._dropped or (mode is not None and mode.used)
        return outcome

    def breaks(self, keys: Sequence[Key]) -> bool:
        """Return whether the step breaks on these samples."""
        return is_broken(self.run(keys))

    def gradients(self, keys: Sequence[Key]) -> dict[str, Tensor]:
        """Return the gradients of these samples, in float64, by parameter."""
        self.run(keys)
        return {
            name: plain(local(parameter.grad).to_dense()).double().clone()
            for name, parameter in self._rerun.module.named_parameters()
            if parameter.grad is not None
        }

    def told(
        self, culprits: Sequence[Sample], caveat: str, *, count: int | None = None
    ) -> Samples:
        """Return what was found."""
        return Samples(
            count=len(self.keys) if count is None else count,
            culprits=tuple(culprits),
            caveat=caveat,
            dropout_off=self._dropped and self._dropout_off,
            runs=self._rerun.runs - self._runs_before,
        )


def _breakers(apart: _Apart) -> Samples:
    if not apart.breaks(apart.keys):
        apart.keep_dropout()
        if not apart.breaks(apart.keys):
            return apart.told([], "the step does not break when samples are run again")
    bad = _found(apart, apart.keys)
    fine = [key for key in apart.keys if key not in bad]
    if len(apart.keys) > 1 and len(bad) == len(apart.keys):
        return apart.told([], "every sample breaks, alone too: look at what they share")
    if len(bad) >= _MANY:
        return apart.told([], f"{_MANY} samples break, and maybe more: look at all")
    caveat = ""
    if fine and not _add_up(apart, fine):
        bad = [key for key in bad if apart.breaks([*fine, key])]
        caveat = f"{_TOGETHER}, so that each was tried beside those that are fine"
    if not bad:
        caveat = f"no sample breaks alone: {_TOGETHER}"
    return apart.told([_broken(apart, key) for key in bad], caveat)


def _found(apart: _Apart, keys: Sequence[Key]) -> list[Key]:
    """Return the samples that break alone, given samples that break."""
    found: list[Key] = []
    left = [keys]
    while left and len(found) < _MANY:
        some = left.pop()
        if len(some) == 1:
            found += some
            continue
        halves = some[len(some) // 2 :], some[: len(some) // 2]
        left += [half for half in halves if apart.breaks(half)]
    return found


def _add_up(apart: _Apart, fine: Sequence[Key]) -> bool:
    """Return whether gradients of a few samples sum or average to that of them all."""
    few = [key for key in fine if key[0] == fine[0][0]][:_TRIED]
    if len(few) == 1:
        return not apart.breaks(few)
    total: dict[str, Tensor] = {}
    for key in few:
        _add(total, apart.gradients([key]))
    return _weight(apart.gradients(few), total, len(few)) is not None


def _broken(apart: _Apart, key: Key) -> Sample:
    norms = apart.run([key]).norms_before.values()
    return Sample(
        micro_batch=key[0],
        index=key[1],
        nonfinite=True,
        norm_before=math.hypot(*norms),
        share=0.0,
        layers=(),
    )


def _carriers(apart: _Apart) -> Samples:
    whole = apart.gradients(apart.keys)
    found: list[Sample] = []
    add_up = True
    for position in dict.fromkeys(position for position, _ in apart.keys):
        keys = [key for key in apart.keys if key[0] == position]
        alone, total = [], dict[str, Tensor]()
        for key in keys:
            gradients = apart.gradients([key])
            _add(total, gradients)
            alone.append(_carrier(key, gradients, whole))
        weight = _weight(apart.gradients(keys), total, len(keys))
        add_up = add_up and weight is not None
        weight = 1 / len(keys) if weight is None else weight
        found += [replace(one, share=one.share * weight) for one in alone]
    few = _few(found)
    carried = sum(one.share for one in few)
    if not add_up:
        return apart.told(few, f"{_TOGETHER}, so that shares are no more than a hint")
    if carried < _HALF:
        caveat = f"no few samples carry it: the largest {len(few)} carry {carried:.0%}"
        return apart.told(few, caveat)
    return apart.told(few, "")


def _carrier(key: Key, gradients: Gradients, whole: Gradients) -> Sample:
    """Return one sample; its share is still that of its gradient's sum."""
    squares = {name: _dot(g, g) for name, g in gradients.items()}
    total = sum(squares.values())
    layers = sorted(squares, key=squares.__getitem__, reverse=True)[:_LAYERS]
    along = sum(_dot(g, whole[name]) for name, g in gradients.items() if name in whole)
    length = sum(_dot(g, g) for g in whole.values())
    return Sample(
        micro_batch=key[0],
        index=key[1],
        nonfinite=not math.isfinite(total),
        norm_before=math.sqrt(total),
        share=along / length if length else 0.0,
        layers=tuple((name, squares[name] / total) for name in layers if total),
    )


def _few(found: Sequence[Sample]) -> list[Sample]:
    """Return the samples of largest share that carry half of the gradient together."""
    few: list[Sample] = []
    for one in sorted(found, key=lambda one: one.share, reverse=True)[:_FEW]:
        if sum(sample.share for sample in few) >= _HALF:
            break
        few.append(one)
    return few


def _weight(batch: Gradients, total: Gradients, count: int) -> float | None:
    """Return what the sum of gradients is multiplied with in the batch's; None if apart.

    That is 1 for losses that are summed over the batch, 1 / count for averages.
    """
    length = math.sqrt(sum(_dot(g, g) for g in batch.values()))
    for weight in (1 / count, 1.0):
        parts = [g - weight * total[name] for name, g in batch.items() if name in total]
        distance = math.sqrt(sum(_dot(part, part) for part in parts))
        if len(parts) == len(batch) and distance <= _CLOSE * length:
            return weight
    return None


def _add(total: dict[str, Tensor], gradients: Gradients) -> None:
    for name, gradient in gradients.items():
        total[name] = total[name] + gradient if name in total else gradient


def _dot(one: Tensor, other: Tensor) -> float:
    return float((one * other).sum())
