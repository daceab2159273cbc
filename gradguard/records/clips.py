"""What clips, as data: who, by which policies and numbers. Words and thresholds follow."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

OURS = "gradguard"
TRAINER = "Trainer"

# The kinds of policies that something here depends on; the others are in
# `gradguard.clipping.spec`.
NORM = "norm"
BY_NAME = "by_name"
OTHER = "other"


@dataclass(frozen=True)
class PolicyData:
    """One policy.

    Attributes:
        kind: What it is called in files and flags; "other" for a user's own.
        name: Its class; of a user's own, its `repr`.
        number: The number behind its kind, such as the largest norm; None if it has none.
        options: Its other fields by name, as far as they are not the defaults.
        patterns: Of `by_name`, each pattern with its policies, in order.
    """

    kind: str
    name: str
    number: float | None = None
    options: tuple[tuple[str, Any], ...] = ()
    patterns: tuple[tuple[str, tuple["PolicyData", ...]], ...] = ()

    def __str__(self) -> str:
        """Return the policy as one would write it in code."""
        if self.kind == OTHER:
            return self.name
        if self.kind == BY_NAME:
            inside = ", ".join(
                f"{pattern!r}: {_in_code(policies)}"
                for pattern, policies in self.patterns
            )
            return f"{self.name}({{{inside}}})"
        options = (f"{name}={value!r}" for name, value in self.options)
        return f"{self.name}({', '.join([repr(self.number), *options])})"

    def to_json(self) -> dict[str, Any]:
        """Return the policy in the types of JSON."""
        return {
            "kind": self.kind,
            "name": self.name,
            "number": self.number,
            "options": dict(self.options),
            "patterns": [
                [pattern, [policy.to_json() for policy in policies]]
                for pattern, policies in self.patterns
            ],
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "PolicyData":
        """Return the policy that `to_json` wrote."""
        return cls(
            fields["kind"],
            fields["name"],
            fields["number"],
            tuple((name, _frozen(value)) for name, value in fields["options"].items()),
            tuple(
                (pattern, tuple(map(cls.from_json, policies)))
                for pattern, policies in fields["patterns"]
            ),
        )


@dataclass(frozen=True)
class ClipData:
    """Everything that clips one optimizer's gradients.

    Attributes:
        by: Who clips: "gradguard", "Trainer", or "" where neither does.
        policies: In the order they are applied.
    """

    by: str = ""
    policies: tuple[PolicyData, ...] = ()

    def __str__(self) -> str:
        """Return what clips as one would write it in code, "" where nothing does."""
        if self.by != TRAINER:
            return ", then ".join(map(str, self.policies))
        [policy] = self.policies
        return (
            f"Trainer(gradient_clip_val={policy.number!r}, "
            f"gradient_clip_algorithm={policy.kind!r})"
        )

    @property
    def brief(self) -> str:
        """What clips in a few words, as "norm 2.3 (Trainer)"; of ours the code is short."""
        if self.by != TRAINER:
            return str(self)
        [policy] = self.policies
        return f"{policy.kind} {policy.number:g} ({TRAINER})"

    @property
    def max_norm_of_total(self) -> float | None:
        """The largest L2 norm over all parameters let through; None if none is fixed."""
        return min(_max_norms(self.policies, each=False), default=None)

    @property
    def max_norm_of_each(self) -> float | None:
        """The largest L2 norm let through of every parameter; None if none is fixed."""
        return min(_max_norms(self.policies, each=True), default=None)

    def max_norm_of(self, name: str) -> float | None:
        """Return the largest L2 norm let through of one parameter by itself.

        None where no fixed one is for it alone: a norm over several parameters says how
        large they are together.
        """
        return min(_max_norms_of(name, self.policies), default=None)

    def to_json(self) -> dict[str, Any]:
        """Return what clips in the types of JSON."""
        return {
            "by": self.by,
            "policies": [policy.to_json() for policy in self.policies],
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "ClipData":
        """Return what `to_json` wrote."""
        return cls(fields["by"], tuple(map(PolicyData.from_json, fields["policies"])))


NOTHING = ClipData()


def by_trainer(number: float, algorithm: str) -> ClipData:
    """Return `Trainer(gradient_clip_val=number, gradient_clip_algorithm=algorithm)`."""
    return ClipData(TRAINER, (PolicyData(algorithm, TRAINER, number),))


def _max_norms(policies: Sequence[PolicyData], *, each: bool) -> Iterator[float]:
    """Yield the bounds on every parameter's L2 norm, or on their total.

    The least of them holds, whatever the order: a clip only shrinks.
    """
    for policy in policies:
        options = dict(policy.options)
        if policy.kind != NORM or policy.number is None or "norm_type" in options:
            continue
        if options.get("per_parameter", False) is each:
            yield policy.number


def _max_norms_of(name: str, policies: Sequence[PolicyData]) -> Iterator[float]:
    yield from _max_norms(policies, each=True)
    for policy in policies:
        for pattern, inside in policy.patterns:
            if fnmatchcase(name, pattern):
                yield from _max_norms_of(name, inside)
                break  # the first that matches counts


def _in_code(policies: Sequence[PolicyData]) -> str:
    inside = ", ".join(map(str, policies))
    return inside if len(policies) == 1 else f"[{inside}]"


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
