"""The recurrent network that adds digits: it explodes, then it collapses."""

from functools import partial

from gradguard.reproduction.claims.documents import LAB
from gradguard.reproduction.figures import charts, pictures
from gradguard.reproduction.study import Band, Study, Trial

_RECURRENT = (
    "recurrent_first",
    "recurrent_largest",
    "recurrent_smallest",
    "recurrent_gone",
    "saturated",
)
_ACCURACY = ("train_accuracy", "test_accuracy")
_TWENTY_STEPS = ("trainer.max_epochs=4",)  # of five steps

_NONE = Trial("no clipping", "srn-exploding")
_NORM = Trial("norm 5", "srn-cured")
_NONE_20 = Trial("no clipping, 20 steps", "srn-exploding", _TWENTY_STEPS)
_NORM_20 = Trial("norm 5, 20 steps", "srn-cured", _TWENTY_STEPS)


def _alive(label: str) -> Band:
    return Band(label, "recurrent_gone", high=0)


_EXPLODING = Study(
    "srn-exploding",
    "W, U and b explode, then collapse",
    LAB,
    "At a learning rate of 0.2 and a summed loss the norms of W, U and b grow sharply, "
    "then are almost zero: tanh is saturated.",
    (_NONE, _NONE_20),
    (*_RECURRENT, "median_total_before", "nonfinite_losses"),
    expected=(
        Band("no clipping", "recurrent_growth", low=4),
        Band("no clipping", "recurrent_gone", low=0.2),
        Band("no clipping, 20 steps", "saturated", low=0.9),
    ),
    bands=(
        Band("no clipping", "recurrent_growth", low=4),
        Band("no clipping", "recurrent_largest", low=300),
        Band("no clipping", "recurrent_gone", low=0.2),
        Band("no clipping, 20 steps", "saturated", low=0.9),
        Band("no clipping", "nonfinite_losses", high=0),
        Band("no clipping", "median_total_before", low=200),
    ),
    reading="No check for NaN finds this, and the total hides it too: the output layer "
    "keeps it large while the recurrent gradients are gone.",
    figure=partial(pictures.recurrent, labels=("no clipping",), steps=40),
)

_CURED = Study(
    "srn-cured",
    "Norm 5 keeps gradients alive",
    LAB,
    "Clipped to norm 5, the gradients keep a value throughout.",
    (_NONE, _NORM, _NORM_20, Trial("norm 5 per parameter", "srn-per-parameter")),
    (*_RECURRENT, "clip_fraction", "largest_total_after"),
    expected=(_alive("norm 5"),),
    bands=(
        Band("norm 5", "recurrent_smallest", low=1e-3),
        Band("norm 5", "largest_total_after", high=5.0001),
        Band("norm 5, 20 steps", "saturated", high=0.6),
    ),
    reading="The port to torch that the document prints never clips, and would show the "
    "explosion again; clipped as its text says, the claim holds.",
    figure=partial(pictures.recurrent, labels=("no clipping", "norm 5"), steps=100),
)

_LENGTHS = Study(
    "srn-length",
    "Clipping raises test accuracy",
    LAB,
    "With clipping the accuracy on the test set is somewhat higher.",
    (
        Trial("length 5, no clipping", "srn-length-5-exploding"),
        Trial("length 5, norm 5", "srn-length-5"),
        Trial("length 20, no clipping", "srn-exploding"),
        Trial("length 20, norm 5", "srn-cured"),
    ),
    (*_ACCURACY, "saturated"),
    expected=(
        Band("length 5, norm 5", "test_accuracy", low="length 5, no clipping"),
        Band("length 20, norm 5", "test_accuracy", low=0.15),
    ),
    bands=(
        Band("length 5, norm 5", "test_accuracy", low=0.25),
        Band("length 5, norm 5", "train_accuracy", low=0.5),
        Band("length 5, no clipping", "test_accuracy", high=0.15),
        Band("length 5, no clipping", "train_accuracy", high=0.2),
    ),
    reading="True of sequences of 5. At the document's own length of 20 both are at "
    "chance, which is 0.1: stability is not yet learning.",
    figure=partial(charts.dots, number="test_accuracy"),
)


def _cell(cell: str) -> tuple[Trial, ...]:
    return (
        Trial(
            f"{cell.upper()}, no clipping",
            f"srn-{cell}",
            ("clip=[]", "trainer.max_epochs=50"),
        ),
        Trial(f"{cell.upper()}, norm 5 per parameter, 200 epochs", f"srn-{cell}"),
    )


_CELLS = Study(
    "srn-cells",
    "An LSTM learns long sequences",
    LAB,
    "Long-range dependence asks for another model, such as an LSTM.",
    (
        *_cell("lstm"),
        *_cell("gru"),
        Trial("SRN, norm 5, 200 epochs", "srn-cured", ("trainer.max_epochs=200",)),
    ),
    (*_ACCURACY, "first_total_before", "largest_total_before"),
    expected=(
        Band("LSTM, no clipping", "test_accuracy", low=0.2),
        Band("LSTM, norm 5 per parameter, 200 epochs", "test_accuracy", low=0.2),
    ),
    reading="Unclipped they do not help; clipped and trained for longer, they are what "
    "makes length 20 learnable, the GRU more than the LSTM.",
    figure=partial(charts.dots, number="test_accuracy"),
)

_DECAY = Study(
    "srn-weight-decay",
    "Weight decay avoids the explosion",
    LAB,
    "Weight decay or clipping generally avoids the explosion.",
    (
        _NONE,
        *(
            Trial(
                f"weight decay {decay}",
                "srn-exploding",
                (f"model.weight_decay={decay}",),
            )
            for decay in ("0.0001", "0.01", "0.1")
        ),
    ),
    _RECURRENT,
    expected=tuple(
        Band(f"weight decay {decay}", "saturated", high=0.6)
        for decay in ("0.0001", "0.01", "0.1")
    ),
    reading="Clipping does, weight decay does not: the first few steps, which saturate "
    "every tanh, are over before it matters.",
    figure=partial(charts.dots, number="saturated"),
)

_CAUSE = Study(
    "srn-cause",
    "lr and sum cause it, Adam guards",
    LAB,
    "The learning rate and the summed loss are made large to show the explosion; "
    "optimisers such as Adam and RMSprop guard against it.",
    (
        *(
            Trial(f"lr {lr}", "srn-exploding", (f"model.lr={lr}",))
            for lr in ("0.05", "0.01", "0.005")
        ),
        Trial("mean loss", "srn-exploding", ("model.reduction=mean",)),
        Trial(
            "Adam 0.001", "srn-exploding", ("model.optimizer=adam", "model.lr=0.001")
        ),
        Trial("Adam 0.2", "srn-exploding", ("model.optimizer=adam",)),
    ),
    (*_RECURRENT, "test_accuracy"),
    expected=(
        Band("mean loss", "saturated", high=0.1),
        Band("lr 0.005", "saturated", high=0.1),
        Band("Adam 0.2", "saturated", high=0.6),
    ),
    reading="The cause is the learning rate times the summed loss. Adam does not guard "
    "against it: at the same learning rate it saturates as well.",
    figure=partial(charts.dots, number="saturated"),
)

SRN_STUDIES = (_EXPLODING, _CURED, _LENGTHS, _CELLS, _DECAY, _CAUSE)
