"""Every policy by its kind: what it is called in files, flags and the environment.

A new policy is a file, a row here, its name in `gradguard/__init__.py`, and a row in
docs/guard.md. Naming a policy does not import torch; making one does.
"""

from collections.abc import Iterable, Mapping
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, NamedTuple

from gradguard.records.clips import BY_NAME, NOTHING, OTHER, OURS, ClipData, PolicyData

if TYPE_CHECKING:
    from gradguard.clipping.policy import Policy


class Row(NamedTuple):
    """How a policy is written where it is no code.

    Attributes:
        policy: Its class, as "module:class".
        number: The field that the number behind its kind goes to.
        example: The policy as a flag has it.
        default: The number where a flag gives none, the paper's own; None: it must.
        at_most: The largest number allowed, if there is one.
        options: Its other fields, with their defaults.
    """

    policy: str
    number: str
    example: str
    default: float | None = None
    at_most: float | None = None
    options: Mapping[str, Any] = {}

    @property
    def name(self) -> str:
        """The name of the class."""
        return self.policy.rpartition(":")[2]

    @property
    def home(self) -> str:
        """The module of the class."""
        return self.policy.rpartition(":")[0]


POLICIES: dict[str, Row] = {
    "norm": Row(
        "gradguard.clipping.fixed:ClipNorm",
        number="max_norm",
        example="norm:5",
        options={"per_parameter": False, "norm_type": 2.0},
    ),
    "value": Row(
        "gradguard.clipping.fixed:ClipValue",
        number="clip_value",
        example="value:1",
    ),
    "norm_warm_up": Row(
        "gradguard.clipping.warm_up:ClipNormWarmUp",
        number="max_norm",
        example="norm_warm_up:1",
        options={"factor": 10.0, "steps": 1000, "per_parameter": False},
    ),
    "auto": Row(
        "gradguard.clipping.learned:AutoClip",
        number="percentile",
        example="auto:10",
        default=10.0,
        at_most=100.0,
        options={"history": 1000, "per_parameter": False},
    ),
    "zclip": Row(
        "gradguard.clipping.learned:ZClip",
        number="z_thresh",
        example="zclip",
        default=2.5,
        options={"alpha": 0.97, "warmup": 25, "per_parameter": False},
    ),
    "agc": Row(
        "gradguard.clipping.agc:AdaptiveClip",
        number="clipping",
        example="agc:0.01",
        default=0.01,
        options={"eps": 1e-3, "exclude": ()},
    ),
    "adagc": Row(
        "gradguard.clipping.adagc:AdaGC",
        number="lambda_rel",
        example="adagc",
        default=1.05,
        options={"lambda_abs": 1.0, "beta": 0.98, "warmup": 100},
    ),
}

# Not a row: its policies are policies again.
BY_NAME_POLICY = "gradguard.clipping.by_name:ByName"

HOMES = {row.name: row.home for row in POLICIES.values()} | {
    "ByName": BY_NAME_POLICY.rpartition(":")[0]
}
EXAMPLES = ", ".join(row.example for row in POLICIES.values())


def parse(text: str) -> tuple[str, str]:
    """Return the kind and the number, as text, of a policy written as "auto:10".

    Raises:
        ValueError: If there is no such kind, or no number where it needs one.

    Examples:
        >>> parse("zclip")
        ('zclip', '2.5')
    """
    kind, colon, number = (part.strip() for part in text.partition(":"))
    row = POLICIES.get(kind)
    if row and not colon and row.default is not None:
        number = f"{row.default:g}"
    if row is None or not number:
        raise ValueError(f"expects {either(map(_form, POLICIES))}, got {text!r}")
    return kind, number


def parse_named(text: str) -> tuple[str, str, str]:
    """Return the pattern, the kind and the number of "rnn.*=value:10".

    Raises:
        ValueError: If there is no pattern, or what follows is no policy.
    """
    pattern, _, policy = text.rpartition("=")
    if not pattern:
        raise ValueError(f"expects PATTERN=POLICY as 'rnn.*=value:10', got {text!r}")
    return pattern, *parse(policy)


def make(kind: str, number: float, **options: Any) -> "Policy":
    """Return the policy of a kind."""
    row = POLICIES[kind]
    policy: Policy = resolve_name(row.policy)(**{row.number: number}, **options)
    return policy


def make_by_name(policies: Mapping[str, Iterable["Policy"]]) -> "Policy":
    """Return the policy that applies to each pattern its own."""
    policy: Policy = resolve_name(BY_NAME_POLICY)(policies)
    return policy


def as_data(policies: Iterable["Policy"]) -> ClipData:
    """Return policies that gradguard clips by as data; nothing clips if there are none."""
    described = tuple(map(_policy_data, policies))
    return ClipData(OURS, described) if described else NOTHING


def _policy_data(policy: Any) -> PolicyData:
    path = f"{type(policy).__module__}:{type(policy).__qualname__}"
    if path == BY_NAME_POLICY:
        patterns = tuple(
            (pattern, tuple(map(_policy_data, policies)))
            for pattern, policies in policy.policies
        )
        return PolicyData(BY_NAME, "ByName", patterns=patterns)
    for kind, row in POLICIES.items():
        if path == row.policy:
            given = ((name, getattr(policy, name)) for name in row.options)
            options = tuple(
                (name, _plain(value))
                for name, value in given
                if value != row.options[name]
            )
            number = _plain(getattr(policy, row.number))
            return PolicyData(kind, row.name, number, options)
    return PolicyData(OTHER, repr(policy))


def _plain(value: Any) -> Any:
    """Return the value in a type that JSON has; a number of NumPy or torch as a float."""
    if isinstance(value, (list, tuple)):
        return tuple(map(_plain, value))
    return value if isinstance(value, (bool, int, str)) else float(value)


def either(names: Iterable[str]) -> str:
    """Return "a, b or c"."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def _form(kind: str) -> str:
    return f"{kind}:NUMBER" if POLICIES[kind].default is None else f"{kind}[:NUMBER]"
