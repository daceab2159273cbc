"""Deep networks: how the gradient changes from layer to layer, and what cures it."""

from functools import partial

from gradguard.reproduction.claims.documents import STABILITY, TAM
from gradguard.reproduction.figures import charts, pictures
from gradguard.reproduction.study import Band, Study, Trial

_DEPTHS = (4, 10, 30, 50)
_TRAINED = ("first_over_last_hidden", "test_accuracy", "first_nonfinite_loss")

# Name of a network, and the settings that make it.
_NETWORKS = {
    "sigmoid N(0, 1)": "activation=sigmoid init=normal width=32",
    "sigmoid Glorot": "activation=sigmoid init=glorot width=32",
    "tanh N(0, 1)": "activation=tanh init=normal width=32",
    "tanh Glorot": "activation=tanh init=glorot width=32",
    "relu N(0, 1)": "activation=relu init=normal width=64",
    "relu He": "activation=relu init=he width=32",
    "sigmoid Glorot, batch norm": "activation=sigmoid init=glorot width=32 batch_norm=true",
    "sigmoid Glorot, shortcut": "activation=sigmoid init=glorot width=32 shortcut=true",
    "relu Glorot, batch norm": "activation=relu init=glorot width=32 batch_norm=true",
    "relu He, batch norm, shortcut": (
        "activation=relu init=he width=32 batch_norm=true shortcut=true"
    ),
}


def _settings(network: str, depth: int) -> tuple[str, ...]:
    options = f"{_NETWORKS[network]} depth={depth}".split()
    return tuple(f"model.{option}" for option in options)


def _at_start(*networks: str) -> tuple[Trial, ...]:
    return tuple(
        Trial(
            f"{network}, depth {depth}",
            "deep_mlp",
            _settings(network, depth),
            first_step_only=True,
        )
        for network in networks
        for depth in _DEPTHS
    )


_START = ("first_over_last_hidden", "first_hidden_before", "nonfinite_losses")

_INITS = Study(
    "depth-init",
    "Random initialisation avoids both",
    STABILITY,
    "Random initialisation such as Xavier's largely avoids vanishing and exploding "
    "gradients.",
    _at_start(*list(_NETWORKS)[:6]),
    _START,
    expected=tuple(
        Band(f"{network}, depth 50", "first_over_last_hidden", low=1e-3, high=1e3)
        for network in ("sigmoid Glorot", "tanh Glorot", "relu He")
    ),
    bands=(
        Band("sigmoid Glorot, depth 10", "first_over_last_hidden", high=1e-4),
        Band("relu He, depth 10", "first_over_last_hidden", low=0.01, high=10),
        Band("tanh N(0, 1), depth 30", "first_over_last_hidden", low=1e5),
    ),
    reading="For tanh and relu it does; sigmoid layers vanish whatever the "
    "initialisation. Both layers of relu N(0, 1) explode, so that their ratio is blind: "
    "look at its magnitude.",
    figure=partial(charts.lines, numbers=("first_over_last_hidden",), x="depth"),
)

_CURES = Study(
    "depth-cures",
    "Batch norm, shortcuts avoid both",
    STABILITY,
    "Batch norm keeps gradients stable; a shortcut is the rule that holds everywhere.",
    _at_start(*list(_NETWORKS)[6:]),
    _START,
    expected=(
        Band("relu Glorot, batch norm, depth 50", "first_over_last_hidden", high=1e3),
        Band("sigmoid Glorot, shortcut, depth 50", "first_over_last_hidden", low=1e-3),
    ),
    bands=(
        Band("relu Glorot, batch norm, depth 50", "first_over_last_hidden", low=1e3),
        Band(
            "relu He, batch norm, shortcut, depth 50",
            "first_over_last_hidden",
            low=0.1,
            high=100,
        ),
    ),
    reading="Each alone has a network where it fails: relu with batch norm grows by a "
    "fifth in each layer, sigmoid with a shortcut starts thousandfold. Both together "
    "stay within two decades of one at every depth.",
    figure=partial(charts.lines, numbers=("first_over_last_hidden",), x="depth"),
)

_FORWARD = Study(
    "depth-forward",
    "The forward pass is always stable",
    STABILITY,
    "The forward pass has in general no numerical-stability problem, for activations "
    "bound its numbers.",
    tuple(
        trial
        for trial in _INITS.trials
        if trial.label in ("tanh N(0, 1), depth 50", "relu N(0, 1), depth 50")
    ),
    ("nonfinite_losses", "first_hidden_before"),
    expected=(
        Band("tanh N(0, 1), depth 50", "nonfinite_losses", high=0),
        Band("relu N(0, 1), depth 50", "nonfinite_losses", high=0),
    ),
    reading="True of tanh and sigmoid. relu bounds nothing: 50 layers with weights from "
    "N(0, 1) overflow in the first forward pass.",
    figure=partial(
        charts.dots,
        number="first_hidden_before",
    ),
)


def _trained(network: str, depth: int, cure: str, *settings: str, quick: bool) -> Trial:
    return Trial(
        f"{network} {cure}, depth {depth}",
        "deep-mlp-vanishing",
        (*_settings(network, depth), *settings),
        quick=quick,
    )


def _with_cures(network: str, *, quick: int) -> tuple[Trial, ...]:
    """Return the network at three depths with each cure, one depth in quick mode."""
    norm, shortcut = "model.batch_norm=true", "model.shortcut=true"
    cures = {"plain": (), "norm": (norm,), "shortcut": (shortcut,)}
    cures["norm and shortcut"] = (norm, shortcut)
    return tuple(
        _trained(network, depth, cure, *settings, quick=depth == quick)
        for cure, settings in cures.items()
        for depth in (10, 30, 50)
    )


_TRAINING = Study(
    "depth-training",
    "Batch norm and shortcuts train",
    STABILITY,
    "Batch norm and shortcuts let deep networks train.",
    (*_with_cures("sigmoid Glorot", quick=10), *_with_cures("relu He", quick=50)),
    _TRAINED,
    expected=(
        Band("sigmoid Glorot norm, depth 10", "test_accuracy", low=0.9),
        Band("sigmoid Glorot shortcut, depth 10", "test_accuracy", low=0.9),
        Band("relu He norm, depth 50", "test_accuracy", low=0.9),
        Band("relu He norm and shortcut, depth 50", "test_accuracy", low=0.9),
    ),
    reading="A shortcut alone does not rescue sigmoid layers, nor batch norm alone 50 "
    "relu layers. Both together trained every network tried.",
    figure=partial(charts.dots, number="test_accuracy"),
)

_VANISHING = Study(
    "deep-mlp-vanishing",
    "Ten sigmoid layers vanish",
    TAM,
    "More sigmoid layers trigger the vanishing gradient; relu is the key to solving it.",
    (
        Trial("sigmoid, Glorot", "deep-mlp-vanishing"),
        Trial("sigmoid, Glorot, norm 1", "deep-mlp-vanishing", ("clip=[{norm: 1}]",)),
        Trial("relu, He", "deep-mlp-healthy"),
    ),
    (*_TRAINED, "clip_fraction"),
    expected=(
        Band("sigmoid, Glorot", "test_accuracy", high=0.6),
        Band("relu, He", "test_accuracy", low=0.9),
    ),
    bands=(
        Band("sigmoid, Glorot", "first_over_last_hidden", high=1e-4),
        Band("sigmoid, Glorot", "test_accuracy", high=0.6),
        Band("relu, He", "first_over_last_hidden", low=0.01, high=10),
        Band("relu, He", "test_accuracy", low=0.9),
    ),
    reading="Ten layers of 32 units. Clipping only shrinks: it cannot help here.",
    figure=partial(pictures.layers, labels=("sigmoid, Glorot", "relu, He")),
)

_RESCUED = (
    Band("no clipping", "first_nonfinite_loss", high=20),
    Band("norm 1", "nonfinite_losses", high=0),
    Band("norm 1", "test_accuracy", low=0.8),
)

_EXPLODING = Study(
    "deep-mlp-exploding",
    "Clipping keeps deep layers stable",
    STABILITY,
    "Where a layer's factor is above one in a deep network, gradients explode; clipping "
    "keeps them stable.",
    (
        Trial("no clipping", "deep-mlp-exploding", ("trainer.max_steps=20",)),
        Trial("norm 1", "deep-mlp-cured"),
        Trial("value 5", "deep-mlp-exploding", ("clip=[{value: 5}]",)),
    ),
    ("first_total_before", "first_nonfinite_loss", "test_accuracy", "clip_fraction"),
    expected=_RESCUED,
    bands=_RESCUED,
    reading="Six relu layers with weights from N(0, 1). Clipping to norm 1 rescues them; "
    "clipping to value 5 is finite too, and learns nothing.",
    figure=partial(pictures.norms, labels=("no clipping", "norm 1"), steps=100),
)

DEPTH_STUDIES = (_INITS, _CURES, _FORWARD, _TRAINING, _VANISHING, _EXPLODING)
