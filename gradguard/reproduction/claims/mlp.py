"""Brownlee's MLP: what explodes, what clipping does about it, and what else does."""

from functools import partial

from gradguard.reproduction.claims.documents import BROWNLEE
from gradguard.reproduction.figures import charts, pictures
from gradguard.reproduction.study import Band, Study, Trial

_SCORES = ("first_nonfinite_loss", "train_mse", "test_mse")
CLIPPED = (*_SCORES, "clip_fraction", "largest_total_after", "dead")
_TWENTY_STEPS = ("trainer.max_steps=20",)

_NONE = Trial("no clipping", "mlp", _TWENTY_STEPS)
NORM = Trial("norm 1", "mlp-norm")
_PER_PARAMETER = Trial("norm 1 per parameter", "mlp-norm-per-parameter")
VALUE = Trial("value 5", "mlp-value")


def _unclipped(label: str, *settings: str, long: bool = False) -> Trial:
    return Trial(label, "mlp", settings if long else (*settings, *_TWENTY_STEPS))


def _explodes(label: str) -> Band:
    return Band(label, "first_nonfinite_loss", high=20)


def finite(label: str) -> Band:
    """Return the band that holds if all losses of the trial are finite."""
    return Band(label, "nonfinite_losses", high=0)


_EXPLODING = Study(
    "mlp-exploding",
    "Unclipped, the loss is NaN",
    BROWNLEE,
    "Without clipping the network cannot learn the problem; it predicts NaN.",
    (_NONE,),
    ("first_total_before", "largest_total_before", *_SCORES),
    expected=(_explodes("no clipping"),),
    bands=(
        _explodes("no clipping"),
        Band("no clipping", "first_total_before", low=150, high=1200),
    ),
    reading="The norm doubles from step to step, then overflows.",
    figure=partial(pictures.norms, labels=("no clipping",), steps=20),
)

_NORM_1 = Study(
    "mlp-norm",
    "Norm 1: MSE < 100 in 20 epochs",
    BROWNLEE,
    "Norm 1 makes it stable: the MSE falls below 100 within 20 epochs, and ends at "
    "5.082 (train) and 27.433 (test).",
    (_NONE, NORM),
    ("epoch_below_100", *CLIPPED),
    expected=(finite("norm 1"), Band("norm 1", "epoch_below_100", high=20)),
    bands=(
        finite("norm 1"),
        Band("norm 1", "clip_fraction", low=0.99),
        Band("norm 1", "largest_total_after", high=1.0001),
        Band("norm 1", "first_total_before", low=100),
        Band("norm 1", "train_mse", high=60),
        Band("norm 1", "test_mse", high=200),
    ),
    reading="Stable it is, but one norm over all parameters takes 40 to 60 epochs. The "
    "printed errors fit such a norm, which is what Keras had in 2019; the 20 epochs "
    "fit only a norm of each parameter's own (mlp-per-parameter).",
    figure=partial(pictures.norms, labels=("no clipping", "norm 1"), steps=100),
)

_EACH = Study(
    "mlp-per-parameter",
    "The same, one norm per parameter",
    BROWNLEE,
    "The MSE falls below 100 within 20 epochs (read as Keras 3 does: one norm for each "
    "parameter).",
    (NORM, _PER_PARAMETER),
    ("epoch_below_100", *CLIPPED, "largest_after"),
    expected=(Band("norm 1 per parameter", "epoch_below_100", high=20),),
    bands=(
        finite("norm 1 per parameter"),
        Band("norm 1 per parameter", "largest_after", high=1.0001),
        Band("norm 1 per parameter", "largest_total_after", high=2.0001),
        Band("norm 1 per parameter", "train_mse", high=15),
        Band("norm 1 per parameter", "test_mse", high=80),
    ),
    reading="Four parameters of norm 1 each are a total of 2: longer steps, and every "
    "parameter gets its share of them.",
    figure=partial(pictures.losses, labels=("norm 1", "norm 1 per parameter")),
)

_VALUE_5 = Study(
    "mlp-value",
    "Value 5: stable, MSE below 10",
    BROWNLEE,
    "Values clipped to [-5, 5]: the MSE falls below 100 in a few epochs, and ends "
    "below 10 on both sets.",
    (NORM, VALUE),
    ("epoch_below_100", *CLIPPED),
    expected=(
        Band("value 5", "train_mse", high=10),
        Band("value 5", "test_mse", high=10),
    ),
    bands=(
        finite("value 5"),
        Band("value 5", "largest_rms_after", high=5.0001),
        Band("value 5", "train_mse", high=1500),
    ),
    reading="It is finite, and fast at first. But every element hits the threshold, so "
    "steps have the size of their sign: the loss bounces, units die, and below 10 on "
    "both sets is a lucky seed (1 in 100).",
    figure=partial(pictures.losses, labels=("norm 1", "value 5")),
)

_SCALED = Study(
    "mlp-scaled",
    "Scaling the target cures it too",
    BROWNLEE,
    "Scaling the target is the traditional cure; a reader asks whether scaling the "
    "inputs is one too.",
    (
        _NONE,
        Trial("target scaled", "mlp-scaled-target"),
        Trial("target scaled, norm 1", "mlp-scaled-target", ("clip=[{norm: 1}]",)),
        _unclipped("inputs scaled", "data.scale_input=true"),
    ),
    ("first_total_before", "largest_total_before", *_SCORES, "clip_fraction"),
    expected=(finite("target scaled"),),
    bands=(
        finite("target scaled"),
        Band("target scaled", "first_total_before", high=150),
        _explodes("inputs scaled"),
    ),
    reading="The target is the cause, and scaling it leaves clipping nothing to do or "
    "to gain. The inputs were of unit variance already: scaling them changes nothing.",
    figure=partial(charts.dots, number="first_total_before"),
)

_ALTERNATIVES = Study(
    "mlp-alternatives",
    "So do smaller lr, weight decay",
    BROWNLEE,
    "A smaller learning rate avoids the explosion; regularising the weights is "
    "suggested in a comment.",
    (
        _unclipped("lr 0.003", "model.lr=0.003", "trainer.max_epochs=5", long=True),
        _unclipped("lr 0.001", "model.lr=0.001", long=True),
        _unclipped("momentum 0", "model.momentum=0"),
        _unclipped("weight decay 0.01", "model.weight_decay=0.01"),
        _unclipped("weight decay 1", "model.weight_decay=1"),
        _unclipped("Adam 0.01", "model.optimizer=adam", long=True),
        _unclipped(
            "Adam 0.01, norm 1", "model.optimizer=adam", "clip=[{norm: 1}]", long=True
        ),
    ),
    ("first_total_before", "largest_total_before", *_SCORES),
    expected=(
        finite("lr 0.001"),
        finite("weight decay 0.01"),
        finite("weight decay 1"),
    ),
    reading="A tenth of the learning rate works, a third does not. Weight decay is no "
    "remedy: the explosion is over before the penalty matters. Adam never overflows.",
    figure=partial(charts.dots, number="test_mse"),
)

_BATCH = Study(
    "mlp-batch-size",
    "The batch size sets the norm",
    BROWNLEE,
    "The error gradients are in the hundreds or thousands, depending on the batch size.",
    tuple(
        _unclipped(f"batch size {size}", f"data.batch_size={size}")
        for size in (1, 8, 32, 128, 500)
    ),
    ("first_total_before", "first_nonfinite_loss"),
    expected=tuple(
        Band(f"batch size {size}", "first_total_before", low=100, high=9999)
        for size in (1, 8, 32, 128, 500)
    ),
    reading="Smaller batches have larger gradients, because less of them cancels.",
    figure=partial(charts.lines, numbers=("first_total_before",), x="batch size"),
)

_WIDTH = Study(
    "mlp-width",
    "Above some width the loss is NaN",
    BROWNLEE,
    "A reader's network works while layers are small; beyond a threshold the loss is "
    "NaN.",
    tuple(
        Trial(
            f"width {width}",
            "mlp-scaled-target",
            (f"model.width={width}", "trainer.max_epochs=10"),
        )
        for width in (25, 100, 400, 1600)
    ),
    ("first_total_before", "largest_total_before", "first_nonfinite_loss", "test_mse"),
    expected=(
        *(finite(f"width {width}") for width in (25, 100, 400)),
        _explodes("width 1600"),
    ),
    reading="Also with the target scaled there is a width from which this learning rate "
    "is too large; the first norm hardly tells.",
    figure=partial(charts.lines, numbers=("first_total_before",), x="width"),
)

MLP_STUDIES = (
    _EXPLODING,
    _NORM_1,
    _EACH,
    _VALUE_5,
    _SCALED,
    _ALTERNATIVES,
    _BATCH,
    _WIDTH,
)
