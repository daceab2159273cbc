"""Weights ruined on one rank only: no rank saves them, and all know what was kept."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkpoint_ranks import RUIN, STRATEGIES
from tests.support.processes import torchrun

strategies = pytest.mark.parametrize("strategy", STRATEGIES)
KEPT = f"epoch=0-step={RUIN}.ckpt"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("ranks")
    torchrun("tests.support.checkpoint_ranks", directory)
    return directory


def known(runs: Path, strategy: str, rank: int) -> dict[str, Any]:
    """What a rank believed in the end."""
    found: dict[str, Any] = json.loads((runs / f"{strategy}-{rank}.json").read_text())
    return found


@pytest.mark.slow
@strategies
def test_good_checkpoint_stays(runs: Path, strategy: str) -> None:
    files = {file.name for file in (runs / strategy).iterdir()}

    assert files == {KEPT, "checkpoint.ruined"}


@pytest.mark.slow
@strategies
@pytest.mark.parametrize("rank", [0, 1])
def test_each_rank_knows_which_it_is(runs: Path, strategy: str, rank: int) -> None:
    assert known(runs, strategy, rank)["best"] == str(runs / strategy / KEPT)


@pytest.mark.slow
@strategies
def test_rank_that_sees_the_ruin_names_it(runs: Path, strategy: str) -> None:
    said = [text for rank in (0, 1) for text in known(runs, strategy, rank)["said"]]

    assert [("weights are not finite" in text) for text in said] == [True, True]
    assert any("up.weight (NaN)" in text for text in said)
