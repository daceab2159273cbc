"""Findings about depth: the gradient shrinks, or grows, on its way to the input."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gradguard.health.finding import Finding
from gradguard.health.steps import finite_updates, sample, usual
from gradguard.records.recording import Recording
from gradguard.records.records import Floats, Records

# Weights it takes to speak of depth.
_LAYERS = 4

# The first layer's share of the output layer's gradient. Over 20 seeds it is at most
# 0.17 in the four sigmoid layers of Tam (2021) and at least 2.2 in those of tanh and
# relu. A hundredth: what the ten sigmoid layers, which never learn, stay far below.
_SMALL = 0.2
_TINY = 1e-2

# Weights whose gradients all are this small beside a bias behind them: 50 relu layers
# from Glorot's distribution, whose first/last ratio is 0.3 though all get 1e-8.
_LOST = 1e-5

# 30 tanh layers from N(0, 1) had at least 6.6e5 over 10 seeds; healthy ones at most 70.
_EXPLODED = 1e5


class Pair(NamedTuple):
    """Two layers, and how many decades more gradient the second one gets."""

    small: int
    large: int
    decades: float


def vanishing(recording: Recording) -> Finding | None:
    """Find weights whose gradient is small from the start, beside those behind them.

    Small means both at the first step and in the median over all: what becomes small
    later has `collapsed`.
    """
    usable = sample(finite_updates(recording.records))
    weights = _weights(usable)
    if len(weights) < _LAYERS:
        return None
    moments = _start_and_usual(usable)
    lag = min(_lag(moment, weights) for moment in moments)
    if lag > -np.log10(_LOST):
        return _lost(usable, weights, lag)
    pairs = [_steepest(_smooth(moment[weights])) for moment in moments]
    pair = min(pairs, key=lambda one: one.decades)
    if pair.decades > -np.log10(_SMALL):
        return _vanishing(usable, weights, pair)
    return None


def exploding_at_init(recording: Recording) -> Finding | None:
    """Find weights whose gradient is huge from the start, beside those behind them."""
    usable = sample(finite_updates(recording.records))
    weights = _weights(usable)
    if len(weights) < _LAYERS:
        return None
    pairs = [_steepest(moment[weights][::-1]) for moment in _start_and_usual(usable)]
    pair = min(pairs, key=lambda one: one.decades)
    if pair.decades < np.log10(_EXPLODED):
        return None
    back = weights[::-1]
    large, small = usable.names[back[pair.large]], usable.names[back[pair.small]]
    times, factor = _times(pair)
    return Finding(
        "exploding-at-init",
        "warning",
        f"{large} gets {times:.2g} x the gradient of {small} from the first step "
        f"on: {factor:.2g} x a layer towards the input.",
        "Start from smaller weights, or add batch norm and shortcuts together; "
        "clipping keeps the ratio.",
        int(usable.steps[0]),
        large,
        {"ratio": times, "factor_per_layer": factor},
    )


def _vanishing(records: Records, weights: NDArray[np.intp], pair: Pair) -> Finding:
    middle = (len(weights) - len(_smooth(np.zeros(len(weights), np.float32)))) // 2
    small = records.names[weights[pair.small + middle]]
    large = records.names[weights[pair.large + middle]]
    times, factor = _times(pair)
    return Finding(
        "vanishing",
        "warning" if 1 / times < _TINY else "note",
        f"{small} gets {1 / times:.2g} of the gradient of {large}, from the first step "
        f"on: {1 / factor:.2g} x a layer towards the input.",
        "Change the activation or the initialisation, or add batch norm or shortcuts; "
        "clipping cannot help, it only shrinks.",
        int(records.steps[0]),
        small,
        {"ratio": 1 / times, "factor_per_layer": 1 / factor},
    )


def _lost(records: Records, weights: NDArray[np.intp], decades: float) -> Finding:
    ratio = 10**-decades
    return Finding(
        "vanishing",
        "warning",
        f"Half of the {len(weights)} weights get less than {ratio:.2g} of the largest "
        "gradient behind them, from the first step on.",
        "The signal dies on its way forward too: change an activation that saturates, "
        "start from larger weights, as He's, or add batch norm and shortcuts.",
        int(records.steps[0]),
        records.names[weights[0]],
        {"ratio": ratio},
    )


def _weights(records: Records) -> NDArray[np.intp]:
    """Return the columns of the weights that ever get a gradient, in model order."""
    with_gradient = (records.before > 0).any(axis=0)
    last_words = [name.rpartition(".")[2] for name in records.names]
    weights = np.array([word.startswith("weight") for word in last_words], bool)
    if not weights.any():
        weights[:] = True
    return np.flatnonzero(weights & with_gradient)


def _start_and_usual(records: Records) -> list[Floats]:
    """Return log10 of every parameter's norm at its first step and in the median."""
    positive = np.where(records.before > 0, records.before, np.float32(np.nan))
    logarithms = np.log10(positive)
    first = np.argmax(~np.isnan(logarithms), axis=0)
    return [logarithms[first, np.arange(logarithms.shape[1])], usual(logarithms)]


def _smooth(profile: Floats) -> Floats:
    """Return a running median over a third of the layers, of at most 15.

    Weights of normalisation stand between those of layers, with gradients of another
    size: no single one counts.
    """
    width = max(1, min(15, len(profile) // 3))
    windows = np.lib.stride_tricks.sliding_window_view(profile, width - 1 + width % 2)
    return np.asarray(np.median(windows, axis=1), np.float32)


def _steepest(profile: Floats) -> Pair:
    """Return the layers i < j with the largest profile[j] - profile[i]."""
    rise = profile - np.minimum.accumulate(profile)
    large = int(np.argmax(rise))
    return Pair(int(np.argmin(profile[: large + 1])), large, float(rise[large]))


def _lag(moment: Floats, weights: NDArray[np.intp]) -> float:
    """Return how many decades the median weight is behind the largest after it."""
    ahead = np.fmax.accumulate(moment[::-1])[::-1]
    return float(np.median(ahead[weights] - moment[weights]))


def _times(pair: Pair) -> tuple[float, float]:
    """Return the ratio of a pair, and the factor a layer that makes it up."""
    return 10**pair.decades, 10 ** (pair.decades / (pair.large - pair.small))
