"""What GradGuards are to do in a fit, as one value; of several, what they ask for together."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from gradguard.clipping.policy import Policy, in_words
from gradguard.guard.action import Action
from gradguard.guard.gate import Guard
from gradguard.guard.spike import RECORDED, Spike, spike


@dataclass(frozen=True)
class Wanted:
    """The settings of a GradGuard.

    Attributes:
        policies: What clips; empty observes.
        on_nonfinite: What to do with an update that is not finite.
        on_spike: What to do with one far above the recent ones.
        max_consecutive_skips: In a row; at least 1.
        dump_dir: Where the first bad step is saved.
        layer_statistics: Whether to measure weights and gradients by epoch.
        every_n_steps: Write every n-th step, and the spikes between; at least 1.
        max_scalars: Write scalars per parameter while there are at most so many.
        verdict: Whether to say what was found when the fit ends.

    Raises:
        ValueError: If a number is out of its range.
    """

    policies: tuple[Policy, ...] = ()
    on_nonfinite: Action = "record"
    on_spike: Spike = RECORDED
    max_consecutive_skips: int = 10
    dump_dir: Path | None = None
    layer_statistics: bool = False
    every_n_steps: int = 1
    max_scalars: int = 50
    verdict: bool = True

    def __post_init__(self) -> None:
        _ = self.guard  # whose numbers have a range, too
        if self.every_n_steps < 1:
            raise ValueError(
                f"every_n_steps must be at least 1, got {self.every_n_steps!r}"
            )
        if self.max_scalars < 0:
            raise ValueError(
                f"max_scalars must not be negative, got {self.max_scalars!r}"
            )

    @cached_property
    def guard(self) -> Guard:
        """What to do about bad steps."""
        return Guard(
            self.on_nonfinite,
            self.on_spike,
            self.max_consecutive_skips,
            self.dump_dir,
        )

    @property
    def stops(self) -> bool:
        """Whether some updates are kept from the weights."""
        return self.guard.stops

    @property
    def observes(self) -> bool:
        """Whether gradients and updates are left as they are."""
        return not self.policies and not self.stops

    @property
    def asks(self) -> str:
        """What is asked for beyond recording, as one would write it in code."""
        clip = [f"clip={in_words(self.policies)}"] if self.policies else []
        actions = {"on_nonfinite": self.on_nonfinite, "on_spike": self.on_spike.action}
        stop = [
            f"{key}={value!r}" for key, value in actions.items() if value != "record"
        ]
        return ", ".join([*clip, *stop])


def together(all_wanted: Sequence[Wanted]) -> Wanted:
    """Return what several GradGuards of one Trainer ask for together.

    Each setting is that of the one that has changed it from its default.

    Raises:
        ValueError: If two have changed one setting to different values.
    """
    default, settings = Wanted(), {}
    for setting in fields(Wanted):
        name = setting.name
        usual = getattr(default, name)
        changed: list[Any] = []
        for wanted in all_wanted:
            value = getattr(wanted, name)
            if value != usual and value not in changed:
                changed.append(value)
        if changed[1:]:
            raise ValueError(
                f"two GradGuards of this Trainer differ in {_SAID.get(name, name)}: "
                f"{_text(changed[0])} and {_text(changed[1])}; keep one of them (the "
                "environment variable GRADGUARD may have added one)"
            )
        settings[name] = changed[0] if changed else usual
    return Wanted(**settings)


_SAID = {"policies": "clip"}


def _text(value: Any) -> str:
    return in_words(value) if isinstance(value, tuple) else repr(value)


def settings_of(guard: Any) -> Wanted:
    """Return the settings a GradGuard was made with.

    Raises:
        ValueError: If one is out of its range.
    """
    dump_dir = None if guard.dump_dir is None else Path(guard.dump_dir)
    return Wanted(
        guard.policies,
        guard.on_nonfinite,
        spike(guard.on_spike),
        guard.max_consecutive_skips,
        dump_dir,
        guard.layer_statistics,
        guard.every_n_steps,
        guard.max_scalars,
        guard.verdict,
    )
