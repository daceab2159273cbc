"""What clipped in runs of 0.1, whose schemas hold it as code: the one place that parses.

The text is that of `repr`, several policies with commas between them, or
"Trainer(gradient_clip_val=1.0, gradient_clip_algorithm='norm')". The policies of 0.1 and
their defaults stand here as they were then.
"""

import ast
from typing import Any

from gradguard.records.clips import (
    BY_NAME,
    NOTHING,
    OTHER,
    OURS,
    TRAINER,
    ClipData,
    PolicyData,
    by_trainer,
)

_KINDS: dict[str, tuple[str, str]] = {
    "ClipNorm": ("norm", "max_norm"),
    "ClipValue": ("value", "clip_value"),
    "AutoClip": ("auto", "percentile"),
    "ZClip": ("zclip", "z_thresh"),
    "AdaptiveClip": ("agc", "clipping"),
}
_DEFAULTS = {
    "per_parameter": False,
    "history": 1000,
    "alpha": 0.97,
    "warmup": 25,
    "eps": 1e-3,
    "exclude": (),
}


def read(text: str) -> ClipData:
    """Return what clips, of its text.

    A user's own policy is kept as its text; where Python cannot tell where it ends, so
    is all of it.
    """
    if not text:
        return NOTHING
    try:
        policies = ast.parse(f"[{text}]", mode="eval").body
    except SyntaxError:
        return ClipData(OURS, (PolicyData(OTHER, text),))
    assert isinstance(policies, ast.List)
    if text.startswith(f"{TRAINER}("):
        [trainer] = policies.elts
        fields = _fields(trainer)
        return by_trainer(
            fields["gradient_clip_val"], fields["gradient_clip_algorithm"]
        )
    return ClipData(OURS, _policies(policies))


def _policies(node: ast.expr) -> tuple[PolicyData, ...]:
    return tuple(map(_policy, node.elts if isinstance(node, ast.List) else [node]))


def _policy(node: ast.expr) -> PolicyData:
    name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
    try:
        if name == "ByName":
            return PolicyData(BY_NAME, name, patterns=_patterns(node))
        kind, number = _KINDS[name]
        fields = _fields(node)
        options = tuple(
            (option, value)
            for option, value in fields.items()
            if option != number and value != _DEFAULTS[option]
        )
        return PolicyData(kind, name, fields[number], options)
    except (KeyError, ValueError, AttributeError, IndexError):
        return PolicyData(OTHER, ast.unparse(node))


def _patterns(node: Any) -> tuple[tuple[str, tuple[PolicyData, ...]], ...]:
    [policies] = node.args
    return tuple(
        (ast.literal_eval(pattern), _policies(inside))
        for pattern, inside in zip(policies.keys, policies.values, strict=True)
    )


def _fields(node: Any) -> dict[str, Any]:
    return {field.arg: ast.literal_eval(field.value) for field in node.keywords}
