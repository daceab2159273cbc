"""Brownlee's extensions: other thresholds, both ways of clipping, layers apart."""

from functools import partial

from gradguard.reproduction.claims.documents import BROWNLEE
from gradguard.reproduction.claims.mlp import CLIPPED, NORM, VALUE, finite
from gradguard.reproduction.figures import charts
from gradguard.reproduction.study import Band, Study, Trial

_QUICK = {"0.1", "5", "100", "1000"}


def _threshold(kind: str, threshold: str) -> Trial:
    label = f"{kind} {threshold}"
    known = {NORM.label: NORM, VALUE.label: VALUE}  # the same run need not be run twice
    clip = f"clip=[{{{kind}: {threshold}}}]"
    return known.get(label) or Trial(label, "mlp", (clip,), quick=threshold in _QUICK)


_BOTH = Study(
    "mlp-norm-and-value",
    "Norm and value can be combined",
    BROWNLEE,
    "An extension to try: clip by norm and by value in one run.",
    (
        NORM,
        Trial("norm 1, then value 5", "mlp", ("clip=[{norm: 1}, {value: 5}]",)),
        Trial("value 5, then norm 1", "mlp", ("clip=[{value: 5}, {norm: 1}]",)),
        Trial("norm 5, then value 0.5", "mlp-norm-value"),
        Trial("value 1, then norm 5", "mlp-value-norm"),
    ),
    ("epoch_below_100", *CLIPPED),
    expected=tuple(
        finite(label) for label in ("norm 1, then value 5", "value 5, then norm 1")
    ),
    bands=tuple(
        Band("norm 1, then value 5", number, low="norm 1", high="norm 1")
        for number in ("train_mse", "test_mse", "largest_total_before")
    ),
    reading="Both together are stable, but order matters: after norm 1 no element "
    "exceeds 1, so value 5 changes nothing, bit for bit; before it, it does.",
    figure=partial(charts.dots, number="test_mse"),
)

_BY_LAYER = Study(
    "mlp-by-layer",
    "Larger range for the output layer",
    BROWNLEE,
    "Output derivatives may be given a larger range than hidden ones: [-100, 100] and "
    "[-10, 10] (Graves, 2013).",
    (
        Trial(
            "hidden 10, output 100",
            "mlp",
            ("clip=[{by_name: {hidden*: [{value: 10}], output*: [{value: 100}]}}]",),
        ),
        Trial(
            "hidden 0.1, output 1",
            "mlp",
            ("clip=[{by_name: {hidden*: [{value: 0.1}], output*: [{value: 1}]}}]",),
        ),
    ),
    CLIPPED,
    expected=(
        finite("hidden 10, output 100"),
        Band("hidden 10, output 100", "train_mse", high=100),
    ),
    reading="Graves' numbers are for derivatives before the activation of an LSTM. "
    "Taken over to the weight gradients of this network they are far too large; a "
    "hundredth of them works.",
    figure=partial(charts.dots, number="train_mse"),
)

_NORMS = Study(
    "mlp-norm-thresholds",
    "The threshold hardly matters",
    BROWNLEE,
    "Training is not very sensitive to the threshold, and small ones work well "
    "(Pascanu et al., 2013).",
    tuple(
        _threshold("norm", threshold)
        for threshold in (
            "0.1", "0.5", "1", "2", "5", "10", "20", "50", "100", "200", "500", "1000"
        )
    ),
    CLIPPED,
    expected=tuple(
        Band(f"norm {threshold}", "train_mse", high=100)
        for threshold in ("0.1", "1", "5", "100")
    ),
    reading="All are finite, which is not success: the thresholds that train span two "
    "decades, the best is about 1 % of the first norm, and one as large as the first "
    "norm kills every hidden unit.",
    figure=partial(charts.lines, numbers=("train_mse", "test_mse"), x="norm"),
)  # fmt: skip

_VALUES = Study(
    "mlp-value-thresholds",
    "Value 5 is arbitrary",
    BROWNLEE,
    "The range [-5, 5] was chosen arbitrarily; others may do better.",
    tuple(
        _threshold("value", threshold)
        for threshold in ("0.01", "0.1", "0.5", "1", "5", "10", "50", "100")
    ),
    CLIPPED,
    expected=(Band("value 0.1", "train_mse", high="value 5"),),
    reading="A fiftieth of it does better.",
    figure=partial(charts.lines, numbers=("train_mse", "test_mse"), x="value"),
)

THRESHOLD_STUDIES = (_BOTH, _BY_LAYER, _NORMS, _VALUES)
