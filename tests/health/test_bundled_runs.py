"""What is found in the bundled experiments: what ails the sick, nothing in the cured."""

import runpy
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn
from torch.optim import SGD

from gradguard import GradGuard
from gradguard.data.regression import RegressionData
from gradguard.experiments.resolve import resolve
from gradguard.experiments.run import run
from gradguard.health.diagnosis import diagnose
from gradguard.health.finding import Finding
from gradguard.health.threshold import suggest
from gradguard.models.mlp import MLP
from gradguard.records.recording import Recording
from gradguard.tensorboard.reader import read_recordings
from tests.support import ROOT
from tests.support.trainers import trainer

Trained = Callable[..., Recording]

five_seeds = pytest.mark.parametrize("seed", range(5))

# Those that `benchmarks/false_alarms.py` counts false alarms in, over seeds.
HEALTHY = runpy.run_path(str(ROOT / "benchmarks/false_alarms.py"))["HEALTHY"]
FEW_EPOCHS = {"circles": 10, "deep": 10, "mlp": 20, "srn": 50}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    """Train a bundled experiment, each once; give back what was recorded."""

    @cache
    def train(config: str, *assignments: str, seed: int = 0) -> Recording:
        experiment = resolve(
            config=config,
            assignments=[*assignments, f"seed={seed}"],
            values={"log_dir": str(tmp_path_factory.mktemp("runs"))},
        )
        outcome = run(experiment)
        assert outcome is not None
        return outcome.recording

    yield train
    train.cache_clear()


def kinds(recording: Recording, *severities: str) -> set[str]:
    return {
        found.kind
        for found in diagnose(recording)
        if found.severity in (severities or ("error", "warning"))
    }


def the(kind: str, recording: Recording) -> Finding:
    [finding] = [found for found in diagnose(recording) if found.kind == kind]
    return finding


@pytest.mark.parametrize("case", HEALTHY, ids=str)
def test_nothing_is_wrong_with_what_is_healthy(trained: Trained, case: Any) -> None:
    family, *_ = case.config.split("-")
    epochs = FEW_EPOCHS[family]

    recording = trained(case.config, *case.changes, f"trainer.max_epochs={epochs}")

    assert kinds(recording) == set()


@five_seeds
def test_mlp_explosion_is_seen_before_it_overflows(trained: Trained, seed: int) -> None:
    recording = trained("mlp-exploding", "trainer.max_epochs=2", seed=seed)
    before = recording.records.before
    overflowed = int(np.argmax(~np.isfinite(before).all(axis=1)))

    early, late = the("exploding", recording), the("exploded", recording)

    assert early.step is not None
    assert 3 <= early.step <= overflowed - 2
    assert (late.step, late.severity) == (overflowed, "error")
    assert kinds(recording) >= {"unclipped"}


@five_seeds
def test_deep_mlp_explosion_is_found(trained: Trained, seed: int) -> None:
    recording = trained("deep-mlp-exploding", "trainer.max_epochs=1", seed=seed)

    assert kinds(recording) >= {"exploding", "exploded", "unclipped"}


@five_seeds
def test_srn_collapse_is_found_under_a_high_total_and_a_finite_loss(
    trained: Trained, seed: int
) -> None:
    recording = trained("srn-exploding", seed=seed)
    assert np.isfinite(recording.records.loss).all()

    finding = the("collapsed", recording)

    assert finding.severity == "error"
    for name in ("cell.W", "cell.U", "embedding.weight"):
        assert name in finding.text
    assert finding.numbers["late_total_before"] > 200
    assert finding.numbers["late_before"] < 1e-2
    assert kinds(recording) >= {"overshoot", "unclipped"}


def test_port_that_forgets_to_clip_is_told(trained: Trained) -> None:
    text = the("unclipped", trained("srn-exploding")).text

    assert text == "Clipping configured: none; steps clipped: 0 of 250 steps."


@pytest.mark.parametrize("seed", range(2))
def test_threshold_too_high_to_help_is_told(trained: Trained, seed: int) -> None:
    recording = trained("srn-exploding", "clip=[{norm: 100}]", seed=seed)

    assert "clip-too-high" in kinds(recording)
    assert "ClipNorm(100.0)" in the("clip-too-high", recording).text


@five_seeds
def test_deep_sigmoid_network_vanishes(trained: Trained, seed: int) -> None:
    recording = trained("deep-mlp-vanishing", "trainer.max_epochs=2", seed=seed)

    finding = the("vanishing", recording)

    assert finding.severity == "warning"
    assert finding.numbers["ratio"] < 1e-4
    assert 0.1 < finding.numbers["factor_per_layer"] < 0.4


@five_seeds
def test_four_sigmoid_layers_vanish(trained: Trained, seed: int) -> None:
    recording = trained("circles-sigmoid", "trainer.max_epochs=10", seed=seed)

    finding = the("vanishing", recording)

    assert finding.parameter in ("hidden.0.weight", "hidden.1.weight")
    assert finding.numbers["ratio"] < 0.2


def test_relu_layers_that_all_get_nothing_vanish(trained: Trained) -> None:
    recording = trained(
        "deep-mlp-healthy",
        "model.depth=50",
        "model.init=glorot",
        "trainer.max_epochs=2",
    )
    before = recording.records.before[0]
    weights = [n.endswith("weight") for n in recording.records.names]
    assert 0.05 < before[weights][0] / before[weights][-2] < 5  # a ratio that is blind

    assert the("vanishing", recording).severity == "warning"


def test_relu_layers_that_pass_nothing_are_dead(trained: Trained) -> None:
    recording = trained(
        "deep-mlp-healthy",
        "model.depth=50",
        "model.width=5",
        "trainer.max_epochs=1",
    )

    assert the("dead", recording).severity == "error"
    assert (recording.records.before[:, :-1] == 0).all()


def test_deep_tanh_network_explodes_at_init(trained: Trained) -> None:
    recording = trained("deep-mlp-exploding-at-init", "trainer.max_epochs=1")

    finding = the("exploding-at-init", recording)

    assert finding.numbers["ratio"] > 1e5
    assert 1.4 < finding.numbers["factor_per_layer"] < 2.2


def test_norm_too_large_for_float32_is_found(trained: Trained) -> None:
    recording = trained(
        "deep-mlp-cured",
        "model.depth=30",
        "model.width=64",
        "trainer.max_epochs=1",
    )

    assert the("overflow", recording).numbers["total_before"] > 1.8e19


def test_run_that_lightning_freezes_is_told(trained: Trained) -> None:
    deep = ("model.depth=30", "model.width=64", "trainer.max_epochs=1")
    recording = trained(
        "deep-mlp-exploding", *deep, "trainer.gradient_clip_val=1", seed=0
    )
    assert (recording.records.after[:20] == 0).all()

    assert the("frozen", recording).severity == "error"


@pytest.fixture
def refused(trained: Trained) -> Recording:
    """The MLP that explodes, where bad steps are skipped."""
    skip = ("on_nonfinite=skip", "max_consecutive_skips=100")
    return trained("mlp-exploding", *skip, "trainer.max_epochs=2")


@pytest.mark.filterwarnings("ignore:update skipped")  # what is asked for
def test_refused_steps_are_counted(refused: Recording) -> None:
    finding = the("refused", refused)

    assert finding.severity == "warning"
    assert finding.numbers["refused_steps"] == refused.records.refused.sum() > 0


@pytest.mark.filterwarnings("ignore:update skipped")  # what is asked for
def test_nothing_explodes_by_a_refused_step(refused: Recording) -> None:
    assert "exploded" not in kinds(refused)


def test_parameters_that_nothing_reaches_are_named(tmp_path: Path) -> None:
    class Careless(MLP):
        def __init__(self) -> None:
            super().__init__()
            self.forgotten = nn.Linear(1, 1, bias=False)
            self.unused = nn.Linear(1, 1, bias=False)

        def configure_optimizers(self) -> SGD:
            reached = [*self.hidden.parameters(), *self.output.parameters()]
            other_model = nn.Linear(1, 1, bias=False)
            return SGD([*reached, self.unused.weight, other_model.weight], lr=1e-4)

    with pytest.warns(UserWarning, match="no optimizer holds forgotten.weight"):
        trainer(tmp_path, GradGuard(), max_steps=3, limit_val_batches=0).fit(
            Careless(), RegressionData()
        )
    recording = read_recordings(tmp_path / "run")[""]

    assert "unused.weight" in the("no-gradient", recording).text
    assert "forgotten.weight" in the("unoptimized", recording).text
    assert "unnamed." in the("foreign", recording).text


def test_clip_on_every_step_is_a_note(trained: Trained) -> None:
    recording = trained("srn-cured")

    assert the("clip-always", recording).severity == "note"
    assert "250 of 250 steps" in the("clip-always", recording).text


def test_clip_that_never_fires_is_a_note(trained: Trained) -> None:
    recording = trained(
        "mlp-scaled-target", "clip=[{norm: 1000}]", "trainer.max_epochs=2"
    )

    assert the("clip-never", recording).text.startswith(
        "Clipping configured: ClipNorm(1000.0); steps clipped: 0 of 32 steps."
    )


@pytest.mark.parametrize("config", ["mlp-exploding", "srn-exploding"])
def test_suggestion_is_a_hundredth_of_the_first_total(
    trained: Trained, config: str
) -> None:
    few = ["trainer.max_epochs=2"] if config == "mlp-exploding" else []
    recording = trained(config, *few)
    first = np.linalg.norm(recording.records.before[0].astype(float))

    suggestion = suggest(recording)

    assert suggestion.max_norm == pytest.approx(first / 100, rel=0.05)
    assert "first total" in suggestion.reason


@pytest.mark.parametrize(
    ("config", "epochs", "reason"),
    [
        ("deep-mlp-vanishing", 2, "far apart from the start"),
        ("mlp-scaled-target", 20, "none is needed"),
    ],
)
def test_no_suggestion_where_no_clip_would_help(
    trained: Trained, config: str, epochs: int, reason: str
) -> None:
    suggestion = suggest(trained(config, f"trainer.max_epochs={epochs}"))

    assert suggestion.max_norm is None
    assert reason in suggestion.reason


def test_suggestion_of_a_cured_run_is_what_its_clip_lets_through(
    trained: Trained,
) -> None:
    assert suggest(trained("srn-cured")).max_norm == 5.0
