"""`gradguard replay` and `gradguard.replay()`: what they say of steps of real fits."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.demos import LightningTransformer
from lightning.pytorch.demos.boring_classes import (
    BoringModel,
    ManualOptimBoringModel,
    RandomDataset,
)
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.utils.data import DataLoader
from typing_extensions import override

import gradguard
from gradguard import GradGuard
from gradguard.guard.random_state import set_random_state
from tests.support.command_line import Call, in_this_process
from tests.support.dumps import BAD_BATCH, BAD_SAMPLE, Healthy, Logarithm, dumped
from tests.support.trainers import QUIET

pytestmark = pytest.mark.filterwarnings("ignore:update skipped:UserWarning")


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    monkeypatch.setenv("COLUMNS", "80")
    return in_this_process(monkeypatch, capsys)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.warns(UserWarning, match="update skipped"):
        return dumped(tmp_path_factory.mktemp("fit"), Logarithm())


def test_terminal_says_what_broke_where_and_by_which_sample(
    call: Call, file: Path
) -> None:
    code, out, _ = call("replay", file)

    lines = [line.rstrip() for line in out.splitlines()]
    said = {line[:7].rstrip(): line[9:] for line in lines if line[:7].strip()}
    assert code == 0
    assert max(map(len, lines)) <= 80
    assert said["step"].startswith("4 of Logarithm, epoch 0, batch 4, loss ")
    assert said["again"].startswith("reproduced")
    assert said["broke"] == "log, forward pass, in Logarithm"
    assert "self.line(batch.log())" in out
    assert said["input"].endswith("4 zeros")  # one sample of width 4
    assert said["output"].endswith("4 -Inf")
    assert said["samples"] == f"{BAD_SAMPLE} of 8"
    assert said["numbers"].startswith("it breaks in float64 as well")
    assert said["try"].startswith("keep the input above zero")


def test_json_has_all_of_it(call: Call, file: Path) -> None:
    _, out, _ = call("replay", file, "--json")

    found = json.loads(out)
    assert found["reproduced"]
    assert found["batches"] == [BAD_BATCH]
    assert (found["cause"]["name"], found["cause"]["direction"]) == ("log", "forward")
    assert [each["index"] for each in found["samples"]["culprits"]] == [BAD_SAMPLE]
    assert found["precision"]["verdict"] == "values"


def test_page_says_the_same_and_asks_nobody(
    call: Call, file: Path, tmp_path: Path
) -> None:
    page = tmp_path / "replay.html"

    code, out, err = call("replay", file, "--html", page)

    text = page.read_text()
    assert code == 0
    assert f"wrote {page}" in err
    assert "log, forward pass, in Logarithm" in text
    assert "<th>line.weight</th>" in text
    assert "://" not in text
    assert "log, forward pass, in Logarithm" in out


def test_page_escapes_what_stands_in_the_code(tmp_path: Path) -> None:
    from gradguard.replay.page import page

    class Less(Logarithm):
        @override
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.line(batch.log() if batch_idx < 9 else batch).square().mean()

    text = page(gradguard.replay(dumped(tmp_path, Less()), Less()))

    assert "batch_idx &lt; 9" in text
    assert "batch_idx < 9" not in text


def test_module_of_the_users_is_imported_from_here(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    source = "from tests.support.dumps import Logarithm\nclass Mine(Logarithm): pass\n"
    (tmp_path / "my_module.py").write_text(source)
    monkeypatch.chdir(tmp_path)

    code, out, _ = call(
        "replay", file, "--module", "my_module:Mine", "--set", "width=4"
    )

    assert code == 0
    assert "4 of Mine" in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["none.pt"], "error: none.pt does not exist"),
        (
            ["{file}", "--module", "tests.support.dumps:Wider"],
            "error: Wider does not fit",
        ),
        (
            ["{file}", "--module", "Wider"],
            "error: --module expects package.module:Class",
        ),
        (["{file}", "--set", "width"], "error: --set expects KEY=VALUE, got 'width'"),
        (["{file}", "--html", "page.txt"], "error: --html should end in .html or .htm"),
    ],
)
def test_mistake_is_one_sentence_and_exit_code_2(
    call: Call, file: Path, arguments: list[str], sentence: str
) -> None:
    code, out, err = call("replay", *[text.format(file=file) for text in arguments])

    assert (code, out) == (2, "")
    assert f"gradguard: {sentence}" in err
    assert err.count("\n") == 1


def test_step_that_is_healthy_by_now_is_told(file: Path) -> None:
    found = gradguard.replay(file, Healthy())

    assert not found.reproduced
    # -Inf times -Inf, and -Inf, where the logarithm of zero meets a positive weight.
    assert found.differences == (
        "line.weight was +Inf and is finite",
        "line.bias was -Inf and is finite",
    )
    assert found.cause is None
    assert found.precision is None


def test_step_of_another_place_is_told(tmp_path: Path, file: Path) -> None:
    content = torch.load(file, weights_only=True)
    content["trainer"] |= {
        "device": "cuda:0",
        "world_size": 4,
        "strategy": "DDPStrategy",
    }
    content["versions"]["torch"] = "1.0"
    torch.save(content, tmp_path / "other.pt")

    if torch.cuda.is_available():
        pytest.skip("the place is at hand")
    notes = " ".join(gradguard.replay(tmp_path / "other.pt").notes)

    assert "saved on cuda:0 and run on cpu" in notes
    assert "4 processes averaged their gradients" in notes
    assert f"saved with torch 1.0, run with {torch.__version__}" in notes


def test_finite_spike_is_blamed_on_the_sample_that_carries_it(
    tmp_path: Path, file: Path
) -> None:
    content = torch.load(file, weights_only=True)
    (saved,) = content["batches"]
    saved["batch"][BAD_SAMPLE] = 1e20  # its logarithm is 46, the others' are below 1
    module = Logarithm()
    module.load_state_dict(content["weights"])
    set_random_state(saved["random_state"])
    loss = module.line(saved["batch"].log()).square().mean()
    loss.backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None
        content["gradients"][name] = {
            "nan": 0,
            "plus_inf": 0,
            "minus_inf": 0,
            "finite": parameter.numel(),
            "norm_before": float(parameter.grad.norm()),
        }
    torch.save({**content, "loss": loss.item()}, tmp_path / "spike.pt")

    found = gradguard.replay(tmp_path / "spike.pt")

    assert found.reproduced
    assert found.was_finite
    assert found.cause is None
    assert found.samples
    worst = found.samples.culprits[0]
    assert (worst.index, worst.nonfinite) == (BAD_SAMPLE, False)
    assert worst.share > 0.9
    alone = 2 * float(module.line(saved["batch"][BAD_SAMPLE].log()).detach()) / 8
    inputs = saved["batch"][BAD_SAMPLE].log()
    expected = abs(alone) * math.sqrt(float(inputs.square().sum()) + 1)
    assert worst.norm_before in (
        pytest.approx(expected, rel=1e-4),
        pytest.approx(8 * expected, rel=1e-4),  # of the sample's own mean
    )


class Half(Logarithm):
    """Healthy batches, and a NaN that the gradient scaler does not see."""

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.line(batch).square().mean()

    @override
    def on_before_optimizer_step(self, optimizer: Any) -> None:
        if self.trainer.fit_loop.epoch_loop.batch_idx == BAD_BATCH:
            assert self.line.bias.grad is not None
            self.line.bias.grad.fill_(math.nan)


def test_overflow_of_float16_is_told_from_values_at_fault(tmp_path: Path) -> None:
    scaler = GradScaler("cpu", init_scale=64.0)
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    content = torch.load(dumped(tmp_path, Half(), plugins=[plugin]), weights_only=True)
    content["batches"][0]["batch"][BAD_SAMPLE] = 60_000.0  # a float16, its sums are not
    content["weights"]["line.weight"].fill_(1.0)
    torch.save(content, tmp_path / "half.pt")

    found = gradguard.replay(tmp_path / "half.pt", Half())

    assert found.cause
    assert (found.cause.name, found.cause.direction) == ("linear", "forward")
    assert found.cause.output.dtype == "float16"
    assert found.cause.peak == pytest.approx(4 * 60_000.0, rel=1e-3)
    assert found.precision
    assert (found.precision.verdict, found.precision.float32) == ("rounding", True)
    assert found.samples
    assert [each.index for each in found.samples.culprits] == [BAD_SAMPLE]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("mlp", []),
        ("srn", ["--lr", "1e38", "--clip-norm", "1e30"]),
        ("deep_mlp", ["--lr", "1e38", "--set", "model.activation=relu"]),
    ],
)
def test_bundled_model_is_replayed_by_itself(
    call: Call, tmp_path: Path, model: str, options: list[str]
) -> None:
    where = ["--dump-dir", tmp_path / "bad", "--log-dir", tmp_path / "runs"]
    train = ["train", "--model", model, "--on-nonfinite", "raise", "--max-epochs", "1"]
    code, _, err = call(*train, *where, *options)
    assert (code, err.count("`gradguard replay` runs it again")) == (1, 1)
    (file,) = (tmp_path / "bad").iterdir()

    code, out, _ = call("replay", file, "--json")

    found = json.loads(out)
    assert code == 0
    assert found["reproduced"]
    assert found["cause"] is not None


class BadRow:
    """Four rows a batch; one value of row 13 is Inf."""

    def train_dataloader(self) -> Any:
        rows = RandomDataset(32, 64)
        rows.data[13, 2] = math.inf
        return DataLoader(rows, batch_size=4)


class Boring(BadRow, BoringModel):
    pass


class BoringByHand(BadRow, ManualOptimBoringModel):
    pass


class Transformer(LightningTransformer):
    """Its loss has a root of zero; prepares data that a replay needs not."""

    def __init__(self, vocab_size: int = 50) -> None:
        super().__init__(vocab_size=vocab_size)

    @override
    def prepare_data(self) -> None:
        assert self.trainer.callbacks  # type: ignore[attr-defined] # set by a connector

    @override
    def train_dataloader(self) -> Any:
        tokens = torch.randint(0, 50, (6, 2, 2, 7), generator=torch.manual_seed(1))
        batches: Any = [(x, y) for x, y in tokens]
        return DataLoader(batches, batch_size=None)

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        zero = loss - loss.detach()
        return loss + zero.sqrt() if batch_idx == 3 else loss


DEMOS: dict[str, tuple[Any, tuple[str, str | None, str]]] = {
    "boring": (Boring, ("batch", None, "batch")),
    "boring by hand": (BoringByHand, ("batch", None, "batch")),
    "transformer": (Transformer, ("sqrt", "backward", "operation")),
}


@pytest.mark.parametrize("demo", DEMOS)
def test_demo_of_lightning_is_replayed(tmp_path: Path, demo: str) -> None:
    kind, expected = DEMOS[demo]
    module: LightningModule = kind()
    guard = GradGuard(on_nonfinite="skip", dump_dir=tmp_path / "bad")
    logger = CSVLogger(tmp_path / "logs")
    options: dict[str, Any] = {**QUIET, "logger": logger, "limit_val_batches": 0}
    Trainer(max_epochs=1, callbacks=[guard], log_every_n_steps=1, **options).fit(module)
    (file,) = (tmp_path / "bad").iterdir()

    found = gradguard.replay(file)

    assert found.reproduced
    assert found.batches == (3,)
    assert found.cause
    assert (found.cause.name, found.cause.direction, found.cause.kind) == expected
    if found.cause.kind == "batch":
        assert found.samples
        assert [each.index for each in found.samples.culprits] == [13 % 4]
