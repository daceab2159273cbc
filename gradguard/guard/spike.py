"""What to do at a step far above the recent ones, though its gradients are finite."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

from gradguard.guard.action import Action, check_action
from gradguard.records.outliers import SIGMA, WINDOW

Watched = Literal["norm", "loss"]

LEAST_WINDOW = 8


@dataclass(frozen=True)
class Spike:
    """Stop an update whose log v > mean(log u) + sigma * sd(log u) + log 4.

    `v` is its total norm before clipping, or its loss; `u` the last `window` usual ones.

    No outlier and nothing non-finite enters the window, nor does a norm or a loss that is
    not positive, and nothing is an outlier before the window is half full. After
    `max_consecutive_skips` in a row the next one counts as usual, with a warning: the
    level has shifted. Six standard deviations over 128 steps are OLMo's rule (2024);
    logarithms are taken for norms are log-normal (Chen et al. 2018).

    Args:
        action: "record" lets it pass; "skip" leaves parameters and optimizer as they
            are; "raise" ends the training.
        sigma: Standard deviations above the mean; above 0.
        window: Usual steps looked back on; at least 8.
        watch: What must not be an outlier: the "norm", the "loss", or both. A loss is
            watched where the closure returns it, which manual optimisation does not.

    Raises:
        ValueError: If an argument is out of its range.

    Examples:
        >>> from gradguard import GradGuard, Spike
        >>> GradGuard(on_spike="skip").on_spike
        Spike(action='skip', sigma=6.0, window=128, watch=('norm', 'loss'))
        >>> guard = GradGuard(on_spike=Spike(sigma=8, watch=["norm"]), dump_dir="bad-steps")
    """

    action: Action = "skip"
    sigma: float = SIGMA
    window: int = WINDOW
    watch: Sequence[Watched] = ("norm", "loss")

    def __post_init__(self) -> None:
        check_action("on_spike", self.action)
        if not 0 < self.sigma < math.inf:
            raise ValueError(f"sigma of Spike must be above 0, got {self.sigma!r}")
        if self.window < LEAST_WINDOW:
            raise ValueError(
                f"window of Spike must be at least {LEAST_WINDOW}, got {self.window!r}"
            )
        watch = (self.watch,) if isinstance(self.watch, str) else tuple(self.watch)
        if not watch or not set(watch) <= set(get_args(Watched)):
            raise ValueError(
                f'watch of Spike must name "norm", "loss" or both, got {self.watch!r}'
            )
        object.__setattr__(self, "watch", watch)


RECORDED = Spike("record")
"""No spike is stopped."""


def parse(text: str) -> Spike:
    """Return what is written as an action, or as an action and sigma: "skip:8".

    Raises:
        ValueError: If the action is none, or the number.

    Examples:
        >>> parse("raise:8").sigma
        8.0
    """
    action, colon, number = (part.strip() for part in text.partition(":"))
    try:
        sigma = float(number) if colon else Spike.sigma
        return Spike(cast("Action", action), sigma)
    except ValueError:
        raise ValueError(
            f"expects record, skip or raise, with sigma behind it as in skip:8, got {text!r}"
        ) from None


def spike(wanted: Action | Spike) -> Spike:
    """Return what is meant by `on_spike`: an action alone stands for all the defaults."""
    return wanted if isinstance(wanted, Spike) else Spike(wanted)
