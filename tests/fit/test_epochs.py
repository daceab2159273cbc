"""Weights and gradients by epoch: what is measured, at which updates, and at no others."""

import copy
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from typing_extensions import override

import gradguard.fit.epochs
from gradguard import ClipNorm, GradGuard
from gradguard.attach import VARIABLE, callbacks
from gradguard.clipping.policy import Policy
from gradguard.experiments.resolve import resolve
from gradguard.experiments.run import run
from gradguard.fit.epochs import EpochRows, spread
from gradguard.gradients.sharding import Shards
from gradguard.records.recording import STATISTICS, Epochs
from gradguard.tensorboard.reader import read_recordings
from gradguard.tensorboard.tags import EPOCHS
from tests.support.bundled import SYSTEMS
from tests.support.event_files import events
from tests.support.modules import Net
from tests.support.oracle import Clip, Loop, by_nothing, to_norm
from tests.support.syncs import Syncs
from tests.support.trainers import Failing, Twenty, fit, same_weights, trainer

BATCHES = 3
GRADIENTS = STATISTICS[2:5]


def epochs_of(run: Path, optimizer: str = "") -> Epochs:
    found = read_recordings(run)[optimizer].epochs
    assert found is not None
    return found


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize(
    ("clip", "policies", "options"),
    [
        (by_nothing, None, {}),
        (to_norm(0.5), None, {"gradient_clip_val": 0.5}),
        (to_norm(0.5), ClipNorm(0.5), {}),
    ],
    ids=["no_clip", "observed", "own"],
)
def test_statistics_are_those_of_a_plain_loop(
    tmp_path: Path,
    clip: Clip,
    policies: Policy | None,
    options: dict[str, Any],
    name: str,
    accumulate: int,
) -> None:
    make_model, make_data, loss = SYSTEMS[name]
    seed_everything(3, verbose=False)
    model, data = make_model(), make_data(shuffle=False)
    data.setup("fit")
    batches = list(islice(data.train_dataloader(), BATCHES))
    twin = copy.deepcopy(model)
    loop = Loop(clip, window=accumulate, epochs=2, loss=loss, statistics=True)
    seen = loop.run(twin, batches)[""]

    trainer(
        tmp_path,
        GradGuard(clip=policies, layer_statistics=True),
        max_epochs=2,
        limit_train_batches=BATCHES,
        limit_val_batches=0,
        log_every_n_steps=2,
        accumulate_grad_batches=accumulate,
        **options,
    ).fit(model, datamodule=data)

    epochs = epochs_of(tmp_path / "run")
    expected = seen.epochs(-(-BATCHES // accumulate))
    assert epochs.names == tuple(name for name, _ in twin.named_parameters())
    assert epochs.epochs.tolist() == [-1, 0, 1]
    np.testing.assert_allclose(epochs.values, expected, rtol=1e-5, atol=1e-12)


def test_mean_cancels_where_mean_abs_does_not() -> None:
    gradient = torch.tensor([0.25, -0.25, -0.25, 0.25])

    assert spread([gradient], Shards([gradient], None)).T.tolist() == [[0, 0.25, 0.25]]


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (torch.tensor([1e-30, -3e-30]), [-1e-30, 2e-30, 2e-30]),
        (torch.tensor([1e30, -3e30]), [-1e30, 2e30, 2e30]),
        (torch.full((70_000,), 0.1), [np.float32(0.1), 0, np.float32(0.1)]),
        (torch.full((70_000,), 3, dtype=torch.float16), [3, 0, 3]),
        (torch.tensor([256, 258], dtype=torch.bfloat16), [257, 1, 257]),
        (torch.empty(0), [np.nan] * 3),
    ],
    ids=["vanishing", "exploding", "constant", "float16", "bfloat16", "none"],
)
def test_spread_is_right(tensor: Tensor, expected: list[float]) -> None:
    found = spread([tensor], Shards([tensor], None))

    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-6)


class Embedded(Twenty):
    """An embedding, of which the batches use few rows, and a complex weight."""

    def __init__(self, *, sparse: bool) -> None:
        super().__init__(partial(torch.optim.SGD, lr=0.1))
        self.embedding = nn.Embedding(10, 4, sparse=sparse)
        self.phase = nn.Parameter(torch.full((4,), 1 + 2j))

    @override
    def loss(self, x: Tensor) -> Tensor:
        rows = self.embedding(torch.tensor([1, 1, 5]))
        loss: Tensor = (rows * self.phase).abs().square().sum()
        return loss


def test_sparse_gradient_counts_the_zeros_it_leaves_out(tmp_path: Path) -> None:
    for name, sparse in (("dense", False), ("sparse", True)):
        model = Embedded(sparse=sparse)
        torch.nn.init.constant_(model.embedding.weight, 0.5)
        fit(tmp_path / name, GradGuard(layer_statistics=True), model=model, max_steps=1)

    dense, sparse_ = (
        epochs_of(tmp_path / name / "run") for name in ("dense", "sparse")
    )
    embedding = dense.names.index("embedding.weight")
    np.testing.assert_array_equal(
        sparse_.values[:, embedding], dense.values[:, embedding]
    )
    # d/dw |w p|^2 = 2 w |p|^2, of row 1 twice and of row 5 once, of 10.
    gradient = 2 * 0.5 * abs(1 + 2j) ** 2
    assert dense["gradient_mean_after"][0, embedding] == pytest.approx(0.3 * gradient)


def test_complex_weight_is_its_real_and_imaginary_parts(tmp_path: Path) -> None:
    fit(
        tmp_path,
        GradGuard(layer_statistics=True),
        model=Embedded(sparse=False),
        max_steps=1,
    )

    epochs = epochs_of(tmp_path / "run")
    phase = epochs.names.index("phase")
    assert epochs["weight_mean"][0, phase] == (1 + 2) / 2
    assert epochs["weight_sd"][0, phase] == (2 - 1) / 2


def test_weights_are_those_of_training_without_it(tmp_path: Path) -> None:
    model = partial(Twenty, partial(torch.optim.AdamW, lr=0.01))

    alone = fit(tmp_path / "alone", model=model(), max_epochs=2)
    guard = GradGuard(layer_statistics=True)
    measured = fit(tmp_path / "measured", guard, model=model(), max_epochs=2)

    assert same_weights(measured, alone)


@pytest.fixture
def counted_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Train for three epochs; count syncs, and name what was called to measure."""
    calls: list[str] = []

    def counted(name: str, act: Any) -> Any:
        def act_counted(*args: Any) -> Any:
            calls.append(name)
            with Syncs():  # type: ignore[no-untyped-call] # by its base
                return act(*args)

        return act_counted

    for name in ("see_update", "see_updated", "see_epoch_end"):
        monkeypatch.setattr(EpochRows, name, counted(name, getattr(EpochRows, name)))
    monkeypatch.setattr(gradguard.fit.epochs, "spread", counted("spread", spread))
    monkeypatch.setattr(Syncs, "count", 0)
    fit(tmp_path, GradGuard(layer_statistics=True), max_epochs=3)
    return calls


def test_only_first_and_last_updates_are_measured(counted_fit: list[str]) -> None:
    assert counted_fit.count("see_update") == 3 * 20
    # Gradients and weights, of the first update and of each epoch.
    assert counted_fit.count("spread") == 2 * (1 + 3)


@pytest.mark.usefixtures("counted_fit")
def test_measuring_does_not_sync() -> None:
    assert Syncs.count == 0


def test_nothing_is_written_unless_asked_for(tmp_path: Path) -> None:
    fit(tmp_path, GradGuard())

    assert read_recordings(tmp_path / "run")[""].epochs is None
    assert not any(EPOCHS in tag for tag in events(tmp_path / "run").Tags()["tensors"])


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    fit(tmp_path, GradGuard(layer_statistics=True), max_epochs=4, log_every_n_steps=20)

    accumulator = events(tmp_path / "run")
    [tag] = [tag for tag in accumulator.Tags()["tensors"] if EPOCHS in tag]
    shapes = [
        [dim.size for dim in event.tensor_proto.tensor_shape.dim]
        for event in accumulator.Tensors(tag)
    ]
    assert sum(rows for rows, _, _ in shapes) == 1 + 4
    assert {tuple(shape) for _, *shape in shapes} == {(5, len(STATISTICS))}


@pytest.mark.parametrize("options", [{"max_steps": 7}, {"limit_train_batches": 7}])
def test_last_update_is_known_ahead(tmp_path: Path, options: dict[str, Any]) -> None:
    fit(tmp_path, GradGuard(layer_statistics=True), **options)

    recording = read_recordings(tmp_path / "run")[""]
    assert len(recording.records.steps) == 7
    last = epochs_of(tmp_path / "run")["gradient_mean_abs_after"][-1]
    assert np.isfinite(last).sum() == 3


def test_weights_alone_are_known_where_an_epoch_is_cut_short(tmp_path: Path) -> None:
    class Stop(Callback):
        def on_train_batch_end(
            self, trainer: Any, _: Any, __: Any, ___: Any, batch_idx: int
        ) -> None:
            trainer.should_stop = batch_idx == 5

    model = fit(tmp_path, GradGuard(layer_statistics=True), Stop())

    epochs = epochs_of(tmp_path / "run")
    assert epochs.epochs.tolist() == [-1, 0]
    means = [float(p.detach().mean()) for p in model.parameters()]
    assert epochs["weight_mean"][1] == pytest.approx(means)
    assert np.isnan(epochs.values[1, :, 2:]).all()


def test_only_update_of_an_epoch_is_first_and_last(tmp_path: Path) -> None:
    fit(
        tmp_path,
        GradGuard(layer_statistics=True),
        limit_train_batches=1,
        log_every_n_steps=1,
    )

    before, after = epochs_of(tmp_path / "run").values
    np.testing.assert_array_equal(before[:, 2:], after[:, 2:])
    assert (before[1, :2] != after[1, :2]).all()


def test_exception_leaves_the_rows_so_far(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no more batches"):
        fit(
            tmp_path,
            GradGuard(layer_statistics=True),
            model=Failing(),
            log_every_n_steps=20,
        )

    assert epochs_of(tmp_path / "run").epochs.tolist() == [-1]


def test_resumed_run_goes_on_with_no_second_start(tmp_path: Path) -> None:
    first = trainer(tmp_path / "a", GradGuard(layer_statistics=True), max_epochs=2)
    first.fit(Twenty())
    first.save_checkpoint(tmp_path / "half.ckpt")

    trainer(tmp_path / "b", GradGuard(layer_statistics=True), max_epochs=4).fit(
        Twenty(), ckpt_path=str(tmp_path / "half.ckpt")
    )

    assert epochs_of(tmp_path / "a" / "run").epochs.tolist() == [-1, 0, 1]
    assert epochs_of(tmp_path / "b" / "run").epochs.tolist() == [2, 3]


class Growing(Net):
    """Its second layer joins the optimizer in the second epoch."""

    @override
    def configure_optimizers(self) -> Any:
        return self.optimizer(self.first.parameters())

    @override
    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 1:
            optimizer: Any = self.trainer.optimizers[0]
            optimizer.add_param_group({"params": [*self.second.parameters()]})


@pytest.mark.filterwarnings("ignore:no optimizer holds")
def test_parameter_that_joins_later_has_no_earlier_rows(tmp_path: Path) -> None:
    guard = GradGuard(layer_statistics=True)
    fit(tmp_path, guard, model=Growing(), max_epochs=3)

    epochs = epochs_of(tmp_path / "run")
    assert epochs.names == tuple(
        f"{layer}.{kind}"
        for layer in ("first", "second")
        for kind in ("weight", "bias")
    )
    assert epochs.epochs.tolist() == [-1, 0, 1, 2]
    assert np.isnan(epochs.values[:2, 2:]).all()
    assert np.isfinite(epochs.values[2:]).all()


class Two(Net):
    """Each layer has an optimizer; that of the second steps in every other batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    @override
    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        optimizers: Any = self.optimizers()
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in optimizers[: 1 + batch_idx % 2]:
            optimizer.step()
        return loss

    @override
    def configure_optimizers(self) -> Any:
        layers = (self.first, self.second)
        return [self.optimizer(layer.parameters()) for layer in layers]


@pytest.mark.parametrize("num_batches", [4, 5])
def test_each_optimizer_has_rows_of_its_own(tmp_path: Path, num_batches: int) -> None:
    fit(
        tmp_path,
        GradGuard(layer_statistics=True),
        model=Two(),
        limit_train_batches=num_batches,
        log_every_n_steps=2,
    )

    one, two = (epochs_of(tmp_path / "run", f"optimizer_{i}") for i in (0, 1))
    assert (one.names[0], two.names[0]) == ("first.weight", "second.weight")
    assert np.isfinite(one.values).all()
    # The fifth batch is the epoch's last, and the second optimizer sits it out.
    assert np.isfinite(two.values[1, :, 2:]).all() == (num_batches % 2 == 0)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("clip", [None, ClipNorm(0.1)])
def test_gradients_are_those_without_the_loss_scale(
    tmp_path: Path, clip: Policy | None, fused: bool
) -> None:
    for scale in (1.0, 64.0):
        scaler = GradScaler("cpu", init_scale=scale)
        fit(
            tmp_path / str(scale),
            GradGuard(clip=clip, layer_statistics=True),
            model=Twenty(partial(torch.optim.SGD, lr=0.01, fused=fused)),
            max_steps=2,
            plugins=[MixedPrecision("16-mixed", "cpu", scaler)],
        )

    one, other = (epochs_of(tmp_path / scale / "run") for scale in ("1.0", "64.0"))
    for statistic in GRADIENTS:
        np.testing.assert_allclose(
            other[statistic], one[statistic], rtol=0.02, atol=1e-5
        )


@pytest.mark.filterwarnings("ignore:update skipped")
@pytest.mark.parametrize("fused", [None, False, True], ids=["refused", "amp", "fused"])
def test_update_that_is_skipped_has_no_gradients(
    tmp_path: Path, fused: bool | None
) -> None:
    class Bad(Twenty):
        @override
        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            return loss * (torch.nan if self.trainer.is_last_batch else 1)

    scaler = [MixedPrecision("16-mixed", "cpu", GradScaler("cpu", init_scale=1.0))]
    fit(
        tmp_path,
        GradGuard(on_nonfinite="skip", layer_statistics=True),
        model=Bad(partial(torch.optim.SGD, lr=0.01, fused=fused)),
        plugins=[] if fused is None else scaler,
    )

    epochs = epochs_of(tmp_path / "run")
    assert np.isfinite(epochs["weight_mean"]).all()
    assert np.isfinite(epochs["gradient_mean_after"][0]).sum() == 3
    assert np.isnan(epochs["gradient_mean_after"][1]).all()


def test_other_loggers_get_none_of_it(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name=None, version="csv")

    fit(tmp_path, GradGuard(layer_statistics=True), logger=logger)

    assert "epochs" not in (tmp_path / "csv/metrics.csv").read_text()


def test_experiment_asks_for_it_by_one_line(tmp_path: Path) -> None:
    settings = {"log_dir": str(tmp_path), "layer_statistics": True}
    experiment = resolve(
        config="circles-sigmoid", assignments=["trainer.max_epochs=1"], values=settings
    )

    outcome = run(experiment)

    assert outcome is not None
    assert epochs_of(outcome.run_dir).epochs.tolist() == [-1, 0]


def test_environment_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "layer_statistics=true")
    [guard] = callbacks()
    assert guard.layer_statistics

    monkeypatch.setenv(VARIABLE, "layer_statistics=perhaps")
    with pytest.raises(ValueError, match="expects true or false for layer_statistics"):
        callbacks()


@pytest.mark.slow
def test_weights_of_the_first_sigmoid_layers_spread_most(tmp_path: Path) -> None:
    settings = {"log_dir": str(tmp_path), "layer_statistics": True}
    outcome = run(
        resolve(
            config="circles-sigmoid",
            assignments=["trainer.log_every_n_steps=32"],
            values=settings,
        )
    )

    assert outcome is not None
    epochs = epochs_of(outcome.run_dir)
    assert epochs.epochs.tolist() == list(range(-1, 100))
    kernels = [name.endswith("weight") for name in epochs.names]
    start, end = epochs["weight_sd"][[0, -1]][:, kernels]
    # Medians of 20 seeds: 0.86 1.00 0.93 0.99 0.86 before, 1.69 1.45 1.23 1.18 1.02 after.
    assert ((start > 0.4) & (start < 1.6)).all()
    growth = end / start
    assert growth[:2].min() > 1.2
    assert growth[0] > growth[-1]
