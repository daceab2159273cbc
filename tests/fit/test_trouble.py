"""An observer never hurts: what it cannot write or measure costs records, and no more."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor
from torch.optim import SGD
from torch.optim.optimizer import _global_optimizer_pre_hooks

from gradguard import ClipNorm, GradGuard
from gradguard.gradients.norms import Gradients
from gradguard.tensorboard.reader import read_run
from tests.support.trainers import Failing, Twenty, fit, same_weights, trainer

LOST = r"GradGuard (cannot|could not) write"

quick = settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


class FaultyEvents(TensorBoardLogger):
    """Its file writer raises at some of the events it is given."""

    fails: Callable[[int], bool] = staticmethod(lambda _: False)

    @property
    def experiment(self) -> Any:
        board = super().experiment
        writer = board._get_file_writer()
        if "add_event" not in vars(writer):
            given, add = iter(range(10**6)), writer.add_event

            def add_event(*args: Any, **kwargs: Any) -> None:
                if self.fails(next(given)):
                    raise OSError(28, "No space left on device")
                add(*args, **kwargs)

            writer.add_event = add_event
        return board


class FaultyMetrics(CSVLogger):
    """Raises at some of the calls of `log_metrics`."""

    fails: Callable[[int], bool] = staticmethod(lambda _: False)

    def log_metrics(self, metrics: Any, step: Any = None) -> None:
        self.calls = getattr(self, "calls", -1) + 1
        if self.fails(self.calls):
            raise ConnectionError("the server is away")
        super().log_metrics(metrics, step)


def fresh(path: Path) -> Path:
    """An empty directory, for the next example."""
    shutil.rmtree(path)
    path.mkdir()
    return path


@pytest.mark.filterwarnings(f"ignore:{LOST}")
@pytest.mark.parametrize("logger", [FaultyEvents, FaultyMetrics])
@pytest.mark.parametrize("clip", [None, ClipNorm(0.1)], ids=repr)
@given(first=st.integers(0, 8), count=st.integers(1, 5))
@quick
def test_weights_are_those_of_a_training_whose_logger_works(
    tmp_path: Path, logger: Any, clip: Any, first: int, count: int
) -> None:
    faulty = logger(fresh(tmp_path), name=None, version="faulty")
    faulty.fails = lambda number: first <= number < first + count

    found = fit(tmp_path, GradGuard(clip), logger=faulty, log_every_n_steps=2)

    expected = fit(fresh(tmp_path), GradGuard(clip))
    assert same_weights(found, expected)


@pytest.mark.filterwarnings(f"ignore:{LOST}")
@pytest.mark.parametrize("logger", [FaultyEvents, FaultyMetrics])
@given(first=st.integers(0, 8))
@quick
def test_exception_of_the_user_is_the_one_that_is_raised(
    tmp_path: Path, logger: Any, first: int
) -> None:
    faulty = logger(fresh(tmp_path), name=None, version="faulty")
    faulty.fails = lambda number: number >= first

    with pytest.raises(RuntimeError, match="no more batches"):
        fit(tmp_path, GradGuard(), model=Failing(), logger=faulty, log_every_n_steps=2)


@pytest.mark.filterwarnings(f"ignore:{LOST}")
@given(first=st.integers(0, 5), count=st.integers(1, 4))
@quick
def test_steps_that_could_not_be_written_are_written_later(
    tmp_path: Path, first: int, count: int
) -> None:
    faulty = FaultyEvents(fresh(tmp_path), name=None, version="later")
    faulty.fails = lambda number: first <= number < first + count

    fit(tmp_path, GradGuard(max_scalars=0), logger=faulty, log_every_n_steps=2)

    assert read_run(tmp_path / "later").steps.tolist() == list(range(20))


def test_records_that_are_lost_are_counted(tmp_path: Path) -> None:
    faulty = FaultyMetrics(tmp_path, name=None, version="faulty")
    faulty.fails = lambda _: True

    with pytest.warns(UserWarning, match=LOST) as said:
        fit(tmp_path, GradGuard(), logger=faulty)

    sentences = [str(one.message) for one in said if "GradGuard" in str(one.message)]
    assert len(sentences) == 2
    assert "ConnectionError: the server is away" in sentences[0]
    assert "could not write 4 of its records to FaultyMetrics" in sentences[1]


class Flaky(CSVLogger):
    """Is away while `away` says so."""

    away = False

    @property
    def experiment(self) -> Any:
        if self.away:
            raise ConnectionError("no such server")
        return super().experiment


class Away(Callback):
    """Takes a logger away, or brings it back, as training starts."""

    def __init__(self, logger: Flaky, *, away: bool) -> None:
        self.logger, self.away = logger, away

    def on_train_start(self, *_: Any) -> None:
        self.logger.away = self.away


def test_logger_that_cannot_be_opened_leaves_the_others(tmp_path: Path) -> None:
    flaky = Flaky(tmp_path, name=None, version="flaky")
    away, back = Away(flaky, away=True), Away(flaky, away=False)
    loggers = [flaky, TensorBoardLogger(tmp_path, name=None, version="run")]

    with pytest.warns(UserWarning, match="cannot write to Flaky"):
        fit(tmp_path, away, GradGuard(), back, logger=loggers)

    assert len(read_run(tmp_path / "run").steps) == 20


class Saves(Callback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if args[-1] == 11:
            trainer.save_checkpoint(self.path)


@pytest.mark.filterwarnings(f"ignore:{LOST}")
def test_checkpoint_is_saved_where_nothing_can_be_written(tmp_path: Path) -> None:
    faulty = FaultyEvents(tmp_path, name=None, version="faulty")
    faulty.fails = lambda _: True

    fit(tmp_path, GradGuard(), Saves(tmp_path / "mid.ckpt"), logger=faulty)

    assert torch.load(tmp_path / "mid.ckpt", weights_only=True)["global_step"] == 12


class Told(Callback):
    """Remembers the exception it was told of."""

    exception: BaseException | None = None

    def on_exception(
        self, trainer: Any, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self.exception = exception


@pytest.mark.filterwarnings(f"ignore:{LOST}")
def test_callbacks_behind_are_told_of_the_exception(tmp_path: Path) -> None:
    faulty, told = FaultyEvents(tmp_path, name=None, version="faulty"), Told()
    faulty.fails = lambda _: True

    with pytest.raises(RuntimeError, match="no more batches"):
        fit(tmp_path, GradGuard(), told, model=Failing(), logger=faulty)

    assert "no more batches" in str(told.exception)


class Unmeasurable(Twenty):
    """Its gradients break what measures them from the sixth step on."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        Unmeasurable.breaks = batch_idx >= 5

    breaks = False


@pytest.fixture
def breaking_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    norms = Gradients.norms

    def broken(self: Gradients, **options: Any) -> Tensor:
        if Unmeasurable.breaks:
            raise NotImplementedError("no kernel for this tensor")
        return norms(self, **options)

    monkeypatch.setattr(Gradients, "norms", broken)


@pytest.mark.usefixtures("breaking_norms")
def test_gradients_that_cannot_be_measured_cost_their_records(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="NotImplementedError: no kernel") as said:
        found = fit(tmp_path, GradGuard(), model=Unmeasurable())

    assert len([one for one in said if "GradGuard" in str(one.message)]) == 1
    assert read_run(tmp_path / "run").steps.tolist() == list(range(5))
    assert same_weights(found, fit(tmp_path, model=Unmeasurable()))


@pytest.mark.usefixtures("breaking_norms")
def test_gradients_that_cannot_be_clipped_end_the_training(tmp_path: Path) -> None:
    with pytest.raises(NotImplementedError, match="no kernel"):
        fit(tmp_path, GradGuard(ClipNorm(1.0)), model=Unmeasurable())


def test_dump_that_cannot_be_saved_does_not_keep_the_step_from_being_skipped(
    tmp_path: Path,
) -> None:
    class Bad(Twenty):
        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            return loss * math.nan if batch_idx == 3 else loss

    (tmp_path / "file").write_text("in the way")
    guard = GradGuard(on_nonfinite="skip", dump_dir=tmp_path / "file")

    with pytest.warns(UserWarning, match="update skipped at step 3.*not saved"):
        trainer(tmp_path, guard).fit(model := Bad())

    assert all(p.isfinite().all() for p in model.parameters())


class Unhashable(SGD):
    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = None  # type: ignore[assignment] # as of a dataclass


def test_optimizer_that_cannot_be_hashed_is_watched(tmp_path: Path) -> None:
    model = Twenty()
    model.optimizer = lambda parameters: Unhashable(parameters, 0.05)

    fit(tmp_path, GradGuard(), model=model)

    assert len(read_run(tmp_path / "run").steps) == 20


class Closed(SGD):
    def register_step_pre_hook(self, hook: Any) -> Any:
        raise TypeError("no hooks, please")


def test_optimizer_that_cannot_be_watched_costs_its_records(tmp_path: Path) -> None:
    def model() -> Twenty:
        each = Twenty()
        each.optimizer = lambda parameters: Closed(parameters, 0.05)
        return each

    with pytest.warns(UserWarning, match="no hooks, please") as said:
        found = fit(tmp_path, GradGuard(), model=model())

    assert len([one for one in said if "GradGuard" in str(one.message)]) == 1
    assert same_weights(found, fit(tmp_path / "without", model=model()))


def test_frozen_parameter_with_a_hook_is_no_obstacle(tmp_path: Path) -> None:
    model = Twenty()
    model.optimizer = lambda _: SGD(model.parameters(), 0.05)
    model.first.weight.register_hook(lambda gradient: gradient.clamp(-1, 1))  # type: ignore[no-untyped-call]
    model.first.weight.requires_grad_(False)

    fit(tmp_path, GradGuard(), model=model)

    assert len(read_run(tmp_path / "run").steps) == 20


def test_fit_that_cannot_begin_leaves_no_hook(tmp_path: Path) -> None:
    model = Twenty()
    model.optimizer = lambda parameters: Closed(parameters, 0.05)

    with pytest.raises(TypeError, match="no hooks, please"):
        fit(tmp_path, GradGuard(ClipNorm(1.0)), model=model)

    assert not _global_optimizer_pre_hooks


class Manual(Twenty):
    """Returns a loss that is no real number."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.zero_grad()
        self.manual_backward(loss)
        self.update()
        return {"loss": torch.complex(loss, loss).detach()}

    def update(self) -> None:
        self.optimizers().step()  # type: ignore[union-attr]


def test_loss_that_is_no_real_number_costs_no_norms(tmp_path: Path) -> None:
    fit(tmp_path, GradGuard(), model=Manual())

    records = read_run(tmp_path / "run")
    assert len(records.steps) == 20
    assert all(map(math.isnan, records.loss))


@pytest.mark.filterwarnings("error:GradGuard has seen no update")
def test_warning_that_is_to_be_an_error_is_raised_as_it_is(tmp_path: Path) -> None:
    class ByHand(Manual):
        def update(self) -> None:
            for parameter in self.first.parameters():
                parameter.data.sub_(1)

    with pytest.raises(UserWarning, match="GradGuard has seen no update of SGD"):
        fit(tmp_path, GradGuard(), model=ByHand())

    assert not _global_optimizer_pre_hooks


class Removing(Twenty):
    """Has the directory of its run deleted in mid-fit."""

    def __init__(self, run: Path) -> None:
        super().__init__()
        self.run = run

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if batch_idx == 12:
            # With a checkpoint all that waits is written, so that no thread is at it.
            self.trainer.save_checkpoint(self.run.with_name("mid.ckpt"))
            shutil.rmtree(self.run)


@pytest.mark.filterwarnings(f"ignore:{LOST}")
def test_directory_that_is_gone_does_not_break_the_loggers_writer(
    tmp_path: Path,
) -> None:
    logger = TensorBoardLogger(tmp_path, name=None, version="run")

    fit(tmp_path, GradGuard(), model=Removing(tmp_path / "run"), logger=logger)

    worker = logger.experiment._get_file_writer().event_writer._async_writer._worker
    assert worker.exception is None
