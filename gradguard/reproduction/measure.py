"""The numbers of a run: from its records and from its outcome."""

import re
from math import inf

import numpy as np
from numpy.typing import NDArray
from torch import nn

from gradguard.experiments.build import build
from gradguard.experiments.run import Outcome
from gradguard.records.recording import Recording
from gradguard.records.records import Records

_LATE = slice(20, None)  # steps after which an unclipped SRN has collapsed
_EARLY = slice(40)  # steps that the source plots of it
_GONE = 1e-3


def of_outcome(outcome: Outcome) -> dict[str, float]:
    """Return every number in `HEADINGS` that the run has."""
    model, data, _ = build(outcome.experiment)
    data.setup("fit")
    scores = {
        f"{stage}_{name}": value
        for stage, metrics in (("train", outcome.train), ("test", outcome.test))
        for name, value in metrics.items()
    }
    steps_per_epoch = len(data.train_dataloader())
    return {
        **scores,
        **outcome.units,
        **of_records(outcome.records, model, steps_per_epoch=steps_per_epoch),
        **of_epochs(outcome.recording),
    }


def of_records(
    records: Records, model: nn.Module, *, steps_per_epoch: int
) -> dict[str, float]:
    """Return the numbers that follow from the norms and losses of all steps."""
    bad = records.steps[~np.isfinite(records.loss)]
    finite = records.total_before[np.isfinite(records.total_before)]
    elements = np.array([model.get_parameter(name).numel() for name in records.names])
    return {
        "first_total_before": float(records.total_before[0]),
        "largest_total_before": float(finite.max()) if len(finite) else np.nan,
        "largest_total_after": float(records.total_after.max()),
        "largest_after": float(records.after.max()),
        "largest_rms_after": float((records.after / np.sqrt(elements)).max()),
        "clip_fraction": records.clip_fraction,
        "first_nonfinite_loss": float(bad[0]) if len(bad) else inf,
        "nonfinite_losses": float(len(bad)),
        "epoch_below_100": _epoch_below(100, records.loss, steps_per_epoch),
        **of_layers(records, steps_per_epoch=steps_per_epoch),
        **of_recurrence(records),
    }


def of_layers(records: Records, *, steps_per_epoch: int) -> dict[str, float]:
    """Return how the weight gradients of a deep network's layers compare."""
    layers = [name for name in records.names if _hidden(name)]
    if not layers:
        return {}
    first, last = (_norm(records, name) for name in (layers[0], layers[-1]))
    output = _norm(records, "output.weight")
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "first_hidden_before": float(first[0]),
            "first_over_last_hidden": float(first[0] / last[0]),
            "first_over_output": float(np.median((first / output)[::steps_per_epoch])),
            "first_faded": _faded(first, steps_per_epoch),
            "output_faded": _faded(output, steps_per_epoch),
        }


def of_recurrence(records: Records) -> dict[str, float]:
    """Return how the joint norm of W, U and b of an SRN grows, then vanishes."""
    names = ("cell.W", "cell.U", "cell.b")
    if not set(names) <= set(records.names):
        return {}
    joint = np.sqrt(sum(np.square(_norm(records, name)) for name in names))
    numbers = {
        "recurrent_first": float(joint[0]),
        "recurrent_largest": float(joint[_EARLY].max()),
        "recurrent_growth": float(joint[_EARLY].max() / joint[0]),
        "recurrent_smallest": float(joint.min()),
    }
    if len(late := joint[_LATE]):
        totals = records.total_before[_LATE]
        numbers["recurrent_gone"] = float((late < _GONE).mean())
        numbers["median_total_before"] = float(np.median(totals))
    return numbers


def of_epochs(recording: Recording) -> dict[str, float]:
    """Return how weights and gradients of the hidden layers spread, where recorded."""
    epochs = recording.epochs
    if epochs is None:
        return {}
    layers = [number for number, name in enumerate(epochs.names) if _hidden(name)]
    weights, gradients, mean, mean_abs = (
        epochs[statistic][:, layers].astype(np.float64)
        for statistic in (
            "weight_sd",
            "gradient_sd_after",
            "gradient_mean_after",
            "gradient_mean_abs_after",
        )
    )
    growth = weights[-1] / weights[0]
    flows = mean_abs > 0
    return {
        "first_sd_growth": float(growth[0]),
        "other_sd_growth": float(np.median(growth[1:])),
        "gradient_sd": float(np.median(gradients)),
        "mean_share": float(np.median(np.abs(mean[flows]) / mean_abs[flows])),
    }


def _epoch_below(
    level: float, loss: NDArray[np.float32], steps_per_epoch: int
) -> float:
    """Return the first epoch, from 1, of mean loss below `level`; Inf if none is."""
    whole = len(loss) // steps_per_epoch * steps_per_epoch
    means = loss[:whole].reshape(-1, steps_per_epoch).mean(axis=1)
    below = np.flatnonzero(means < level)
    return float(below[0] + 1) if len(below) else inf


def _faded(norm: NDArray[np.float64], steps_per_epoch: int) -> float:
    """Return the last epoch's median norm / the first epoch's median norm."""
    first, last = norm[:steps_per_epoch], norm[-steps_per_epoch:]
    return float(np.median(last) / np.median(first))


def _hidden(name: str) -> bool:
    return re.fullmatch(r"hidden\.\d+\.weight", name) is not None


def _norm(records: Records, name: str) -> NDArray[np.float64]:
    column = records.before[:, records.names.index(name)]
    return column.astype(np.float64)
