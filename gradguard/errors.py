"""How a run may end other than by a bug: the user's mistake, the user's Ctrl-C."""


class ConfigError(ValueError):
    """What was asked for cannot be done: one sentence naming the field and its value."""


class Interrupted(Exception):  # noqa: N818 (an ending, not an error)
    """Ctrl-C ended the training: one sentence saying what is on disk."""


class BadStepError(RuntimeError):
    """A step that was asked to end the training: which one, what is bad, what to try."""


class NonFiniteGradientError(BadStepError):
    """A gradient held a NaN or an Inf: which ones, where, and what to try."""


class SpikeError(BadStepError):
    """A norm or a loss was far above the recent ones: by how much, where, in which layers."""
