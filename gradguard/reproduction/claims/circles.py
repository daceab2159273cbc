"""Tam's networks on two circles: which activations let the gradient through."""

from functools import partial

from gradguard.reproduction.claims.documents import TAM
from gradguard.reproduction.figures import charts, pictures
from gradguard.reproduction.study import Band, Study, Trial

_SCORES = ("test_loss", "test_accuracy", "first_over_output")

_SIGMOID = Trial("sigmoid", "circles-sigmoid", ("layer_statistics=true",))
_TANH = Trial("tanh", "circles-tanh", ("layer_statistics=true",))
_RELU = Trial("relu", "circles-relu", ("layer_statistics=true",))
_GLOROT = Trial("sigmoid, Glorot", "circles-sigmoid", ("model.init=glorot",))

_DEPTH = Study(
    "circles-depth",
    "Deeper sigmoid networks are worse",
    TAM,
    "One hidden layer of relu separates the circles; of sigmoid it is much worse, and "
    "three hidden layers of sigmoid are worse still.",
    (
        Trial("3-layer relu", "circles-3-layer-relu"),
        Trial("3-layer sigmoid", "circles-3-layer-sigmoid"),
        Trial("5-layer sigmoid", "circles-5-layer-sigmoid"),
    ),
    ("test_loss", "test_accuracy", "first_over_last_hidden"),
    expected=(
        Band("3-layer sigmoid", "test_accuracy", high="3-layer relu"),
        Band("5-layer sigmoid", "test_accuracy", high="3-layer sigmoid"),
    ),
    reading="The document prints accuracies of 0.973, 0.654 and 0.533, and says itself "
    "that the last two may come in either order.",
    figure=partial(charts.dots, number="test_accuracy"),
)

_ACTIVATION = Study(
    "circles-activation",
    "Sigmoid alone vanishes",
    TAM,
    "Of four hidden layers, sigmoid ones have almost no gradient in the first; tanh and "
    "relu ones do, and learn (accuracy 0.588, 0.993 and 0.994).",
    (_SIGMOID, _TANH, _RELU),
    _SCORES,
    expected=(
        Band("sigmoid", "test_accuracy", high="tanh"),
        Band("sigmoid", "test_accuracy", high="relu"),
        Band("sigmoid", "first_over_output", high=0.3),
    ),
    bands=(
        Band("sigmoid", "first_over_output", high=0.3),
        Band("sigmoid", "test_accuracy", high=0.9),
        *(
            band
            for label in ("tanh", "relu")
            for band in (
                Band(label, "first_over_output", low=1),
                Band(label, "test_accuracy", low=0.95),
            )
        ),
    ),
    reading="The ratio of the first to the output layer's norm tells them apart over "
    "all of training, and not at the first step.",
    figure=partial(pictures.layers, labels=("sigmoid", "tanh", "relu")),
)

_STATISTICS = Study(
    "circles-layers",
    "Only the first layer spreads",
    TAM,
    "With sigmoid only the first layer's weights spread out, and gradients deviate by "
    "0.01 to 0.001; with tanh by 0.1 to 0.01. A reader asks why the mean and not the "
    "mean of absolute values, others why gradients do not fade.",
    (_SIGMOID, _TANH, _RELU),
    (
        "first_sd_growth",
        "other_sd_growth",
        "gradient_sd",
        "mean_share",
        "first_faded",
        "output_faded",
    ),
    expected=(
        Band("sigmoid", "first_sd_growth", low=1.2),
        Band("sigmoid", "other_sd_growth", high=1.2),
        Band("sigmoid", "gradient_sd", low=0.001, high=0.01),
        Band("tanh", "gradient_sd", low=0.01, high=0.1),
    ),
    reading="With sigmoid the first two layers spread. The mean hides most of a "
    "gradient, as the reader says: its absolute value is a fraction of the mean of "
    "absolute values. As the loss falls the output's gradient fades; the first layer's "
    "need not, for mini-batches go on disagreeing.",
    figure=partial(pictures.epochs, labels=("sigmoid", "tanh", "relu")),
)

_INIT = Study(
    "circles-glorot",
    "Glorot's initialisation helps",
    TAM,
    "Initialising by Glorot and Bengio helps, though less than another activation.",
    (_SIGMOID, _GLOROT),
    _SCORES,
    expected=(Band("sigmoid, Glorot", "test_accuracy", low="sigmoid"),),
    reading="It makes this network worse: weights from N(0, 1) are larger than Glorot's, "
    "and sigmoids, whose slope is at most 1/4, need large ones.",
    figure=partial(pictures.layers, labels=("sigmoid", "sigmoid, Glorot")),
)

_BATCH_NORM = Study(
    "circles-batch-norm",
    "The activation is the key",
    TAM,
    "Sigmoid layers are the problem, another activation is the key to its solution.",
    (_SIGMOID, Trial("sigmoid, batch norm", "circles-batch-norm"), _RELU),
    _SCORES,
    expected=(Band("sigmoid, batch norm", "test_accuracy", high=0.9),),
    reading="Not the only key: normalised, the same sigmoid layers learn as well as relu.",
    figure=partial(pictures.layers, labels=("sigmoid", "sigmoid, batch norm")),
)

CIRCLES_STUDIES = (_DEPTH, _ACTIVATION, _STATISTICS, _INIT, _BATCH_NORM)
