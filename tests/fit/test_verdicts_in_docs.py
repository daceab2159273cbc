"""What docs/verdict.md shows of four fits is what they say: what, where, since when, what to do."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader
from typing_extensions import override

from gradguard import GradGuard
from gradguard.experiments.build import build
from gradguard.experiments.resolve import resolve
from tests.support import ROOT
from tests.support.trainers import trainer

SPIKE_AT, NAN_AT = 180, 340
_EPOCHS = {
    "mlp-exploding": 5,
    "srn-exploding": 50,
    "deep-mlp-exploding": 2,
    "transformer": 1,
}

SPIKED = "encoder.layers.7.self_attn.out_proj.weight"
POISONED = "encoder.layers.3.linear1.weight"


class Transformer(LightningModule):
    """A transformer of 149 tensors: one gradient spikes at step 180, one is NaN at step 340."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, 16)
        self.place = nn.Embedding(8, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 12, nn.LayerNorm(16))
        self.head = nn.Linear(16, 16, bias=False)

    @override
    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        x = self.embed(batch) + self.place(torch.arange(8))
        logits = self.head(self.encoder(x))
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch.flatten())
        return loss + self.planted()

    def planted(self) -> Tensor | float:
        """Return 0, with a gradient of 30 an element, and once the root's at 0: NaN."""
        if self.global_step == SPIKE_AT:
            weight = self.get_parameter(SPIKED)
            return 30 * (weight - weight.detach()).sum()
        if self.global_step == NAN_AT:
            weight = self.get_parameter(POISONED)
            return (weight - weight.detach()).square().sum().sqrt()
        return 0.0

    @override
    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), 1e-3)

    @override
    def train_dataloader(self) -> Any:
        rows = torch.randint(16, (400 * 4, 8), generator=torch.manual_seed(0))
        return DataLoader(list(rows), batch_size=4)  # type: ignore[arg-type] # rows are enough


def told(title: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What a fit says on stderr, where the names of its directories are `runs/<title>`."""
    seed_everything(0, verbose=False)
    directory = Path("runs") / title
    model, data = subject(title)
    fitted = trainer(directory, GradGuard(), max_epochs=_EPOCHS[title])
    capsys.readouterr()
    fitted.fit(model, data)
    lines = capsys.readouterr().err.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("gradguard: "))
    return [line for line in lines[first:] if not line.startswith("INFO")]


def subject(title: str) -> tuple[LightningModule, Any]:
    if title == "transformer":
        return Transformer(), None
    model, data, _ = build(resolve(config=title))
    return model, data


def documented(title: str) -> list[str]:
    page = (ROOT / "docs/verdict.md").read_text()
    found = re.search(rf"^#+ [^\n]*`{title}`.*?\n```text\n(.*?)```", page, re.M | re.S)
    assert found, title
    return found[1].splitlines()


def words(lines: list[str]) -> list[str]:
    """All but numbers, whose last digits are another machine's."""
    return re.sub(r"\d[\d.]*(e[+-]\d+)?", "#", " ".join(lines)).split()


@pytest.mark.slow
@pytest.mark.parametrize(
    "title", ["mlp-exploding", "srn-exploding", "deep-mlp-exploding", "transformer"]
)
def test_fit_says_what_the_docs_show(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    title: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    lines = told(title, capsys)

    assert words(lines) == words(documented(title))
    assert max(map(len, [line for line in lines if "step" not in line])) <= 80
    verdict = lines[
        [line.startswith("gradguard: error") for line in lines].index(True) :
    ]
    assert len(verdict) <= 6
    assert any(line.startswith("  Do:   ") for line in verdict)
