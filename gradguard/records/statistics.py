"""What is known of each parameter at the end of an epoch, and how it is shown."""

from typing import NamedTuple


class Statistic(NamedTuple):
    """How a statistic is shown; none has a unit.

    Attributes:
        label: What it is, in a title or along an axis.
        log: Whether the axis is logarithmic, which one that can be negative has no use for.
    """

    label: str
    log: bool


# By name, in the order they are stored.
BY_EPOCH = {
    "weight_mean": Statistic("mean of weights", log=False),
    "weight_sd": Statistic("sd of weights", log=True),
    "gradient_mean_after": Statistic("mean of gradients after", log=False),
    "gradient_sd_after": Statistic("sd of gradients after", log=True),
    "gradient_mean_abs_after": Statistic("mean of |gradients| after", log=True),
    "update_ratio": Statistic("norm of update / norm of weights", log=True),
}
