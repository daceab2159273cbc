"""What to try, by what broke: tables, read from the most to the least particular."""

from collections.abc import Mapping
from types import MappingProxyType

from gradguard.replay.cause import Direction, Kind

_TENSORS: Mapping[Kind, str] = MappingProxyType(
    {
        "weight": "an earlier step broke it: replay the first bad step, or go back to an "
        "older checkpoint",
        "buffer": "an earlier forward pass broke it, or the checkpoint it came from: "
        "replay the first bad step, or compute it anew",
        "batch": "look at where this sample comes from, and drop or repair it in the "
        "dataset",
        "constant": "look at the code that makes it, before the step",
    }
)
_SCALE = (
    "only the loss scale makes it overflow: a GradScaler skips the step and halves its "
    "scale; if that goes on, start with a smaller scale, or use bf16"
)
_HIDDEN = (
    "torch.where and masks hide its value, not its gradient (0 * Inf is NaN): make the "
    "input harmless before the operation too, as in f(torch.where(ok, x, 1))"
)
_NARROW = (
    "its result is too large for float16: use bf16, or run this operation in float32 "
    "(with torch.autocast(..., enabled=False)), or scale its input down"
)

_EPS_IN_ROOT = "add an eps inside of the root, as in (x.square().sum() + eps).sqrt()"
_LOG = "keep the input above zero, as in x.clamp_min(eps).log(), or use log1p(x)"
_DIV = "keep the denominator away from zero, as in x / (y + eps), or skip empty groups"
_EXP = (
    "subtract the maximum first, or use logsumexp, softmax, softplus or expm1; or clamp "
    "the exponent"
)
_ROW = "some row is masked out whole: leave one element of each row, or drop such rows"
_SPREAD = (
    "one row has no spread: use unbiased=False, or drop_last=True, or larger batches"
)
_POWER = "keep the base away from zero, as in x.clamp_min(eps) ** p"
_DISTANCE = "identical points have no direction: add an eps, or leave the diagonal out"
_ANGLE = "keep both arguments from being zero together, as in x + eps"
_INVERSE = (
    "keep the input inside of the open interval, as in x.clamp(-1 + eps, 1 - eps)"
)
_TARGETS = "no target counts in this batch: skip the batch, or divide by max(count, 1)"
_MATRIX = "the matrix is singular, or nearly: add eps * torch.eye(n) to it"
_GROWTH = "activations grew over layers or time: normalise them, or lower weights"
_SUM = "Inf minus Inf, or a total too large: reduce in float32, or average first"

_FORWARD: Mapping[str, str] = MappingProxyType(
    {
        "acos": _INVERSE,
        "acosh": "keep the input at 1 or above, as in x.clamp_min(1 + eps)",
        "addmm": _GROWTH,
        "asin": _INVERSE,
        "atanh": _INVERSE,
        "baddbmm": _GROWTH,
        "binary_cross_entropy": "keep inputs within [0, 1], or use "
        "binary_cross_entropy_with_logits",
        "bmm": _GROWTH,
        "cosh": _EXP,
        "cross_entropy": _TARGETS,
        "cumprod": _GROWTH,
        "digamma": _LOG,
        "div": _DIV,
        "exp": _EXP,
        "exp2": _EXP,
        "expm1": _EXP,
        "lgamma": _LOG,
        "linalg_inv_ex": _MATRIX,
        "linear": _GROWTH,
        "log": _LOG,
        "log10": _LOG,
        "log1p": "keep the input above -1, as in x.clamp_min(eps - 1).log1p()",
        "log2": _LOG,
        "log_softmax": _ROW,
        "logit": "give an eps, as in torch.logit(x, eps=1e-6)",
        "logsumexp": _ROW,
        "matmul": _GROWTH,
        "max": _ROW,
        "mean": "nothing is left to average: skip empty batches and empty selections",
        "mm": _GROWTH,
        "mul": "0 * Inf is NaN, and a product may leave the range: look at both factors",
        "nanmean": "nothing is left to average: skip rows that are NaN whole",
        "nll_loss": _TARGETS,
        "nll_loss_forward": _TARGETS,
        "pow": _POWER,
        "prod": _GROWTH,
        "reciprocal": _DIV,
        "remainder": _DIV,
        "rsqrt": "keep the input above zero, as in (x + eps).rsqrt()",
        "scaled_dot_product_attention": _ROW,
        "sinh": _EXP,
        "softmax": _ROW,
        "sqrt": "keep the input at zero or above, as in x.clamp_min(eps).sqrt()",
        "std": _SPREAD,
        "sub": _SUM,
        "sum": _SUM,
        "tan": "keep the input away from odd multiples of pi / 2",
        "var": _SPREAD,
        "xlogy": _LOG,
    }
)
_BACKWARD: Mapping[str, str] = MappingProxyType(
    {
        "abs": _ANGLE,
        "acos": _INVERSE,
        "acosh": "keep the input above 1, as in x.clamp_min(1 + eps)",
        "angle": _ANGLE,
        "asin": _INVERSE,
        "atan2": _ANGLE,
        "atanh": _INVERSE,
        "cdist": _DISTANCE,
        "cosine_similarity": _DISTANCE,
        "dist": _DISTANCE,
        "hypot": _ANGLE,
        "linalg.norm": _EPS_IN_ROOT,
        "linalg.vector_norm": _EPS_IN_ROOT,
        "norm": _EPS_IN_ROOT,
        "pairwise_distance": _DISTANCE,
        "pow": _POWER,
        "rsqrt": "keep the input above zero, as in (x + eps).rsqrt()",
        "sqrt": _EPS_IN_ROOT,
        "std": "no spread has no slope: use (x.var(...) + eps).sqrt()",
        "linalg.svd": "equal singular values have no gradient: add noise, or avoid it",
        "linalg.eigh": "equal eigenvalues have no gradient: add noise, or avoid it",
    }
)
_ANY: Mapping[Direction, str] = MappingProxyType(
    {
        "forward": "look at the range of its inputs, and keep them where it is defined",
        "backward": "its slope is not finite there: keep its input away from this value",
    }
)


def tensor_advice(kind: Kind) -> str:
    """Return what to try where a tensor was broken before the step."""
    return _TENSORS[kind]


def operation_advice(
    names: tuple[str, ...],
    direction: Direction,
    *,
    scaled: bool,
    hidden: bool,
    narrow: str | None,
) -> str:
    """Return what to try where an operation broke.

    Args:
        names: Of the operation, from the most to the least particular.
        direction: Of the pass it broke in.
        scaled: Whether it broke only by the loss scale.
        hidden: Whether the forward pass hides what broke.
        narrow: The dtype that its result does not fit into; None if it fits.
    """
    situations = (
        (scaled, _SCALE),
        (hidden, _HIDDEN),
        (narrow == "float16", _NARROW),
    )
    told = [sentence for holds, sentence in situations if holds]
    tables = (_BACKWARD, _FORWARD) if direction == "backward" else (_FORWARD,)
    told += [table[name] for table in tables for name in names if name in table]
    return [*told, _ANY[direction]][0]
