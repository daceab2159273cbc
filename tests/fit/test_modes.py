"""Every mode of one process: what gradguard records beside a loop in plain PyTorch."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest

from gradguard.records.records import Records
from gradguard.tensorboard.reader import read_optimizers
from tests.support.documents import rows_below
from tests.support.modes import NOT_SEEN, OBSERVED, OWN, Row
from tests.support.oracle import Seen, by_nothing


def trained(path: Path, row: Row) -> tuple[dict[str, Records], dict[str, Seen]]:
    """Train a module and, in a plain loop, its twin; return what is known of both."""
    model = row.make()
    twin = copy.deepcopy(model)
    seen = row.oracle.run(twin, model.batches(), row.scaler())
    row.trainer(path).fit(model)
    return read_optimizers(path / "run"), seen


@pytest.mark.filterwarnings("ignore:.training_step. returned .None.:UserWarning")
@pytest.mark.filterwarnings(r"ignore:clip_gradients\(SGD\) clips gradients that are")
@pytest.mark.filterwarnings(
    # Dynamo looks at the gradient of whatever it is given.
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning:torch._"
)
@pytest.mark.parametrize("row", [*OBSERVED, *OWN], ids=lambda row: row.name)
def test_norms_are_those_of_a_plain_loop(tmp_path: Path, row: Row) -> None:
    runs, expected = trained(tmp_path, row)

    assert runs.keys() == expected.keys()
    for optimizer, seen in expected.items():
        assert seen.agree_with(runs[optimizer], rtol=row.rtol)
        assert seen.clipped is (row.oracle.clip is not by_nothing)
        assert sum(seen.skipped) == row.skips


@pytest.mark.xfail(raises=AssertionError, reason="docs/modes.md, Not seen")
@pytest.mark.parametrize("row", NOT_SEEN, ids=lambda row: row.name)
def test_documented_limit_still_holds(tmp_path: Path, row: Row) -> None:
    runs, expected = trained(tmp_path, row)

    for optimizer, seen in expected.items():
        assert seen.agree_with(runs[optimizer], rtol=row.rtol)


def test_a_wrong_record_is_told_from_a_right_one(tmp_path: Path) -> None:
    unclipped, clipped = OBSERVED[:2]
    wrong = replace(unclipped, oracle=clipped.oracle)

    runs, expected = trained(tmp_path, wrong)

    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        expected[""].agree_with(runs[""], rtol=wrong.rtol)


@pytest.mark.parametrize(
    ("heading", "rows"),
    [("One process", [*OBSERVED, *OWN]), ("Not seen", NOT_SEEN)],
)
def test_documented_modes_are_the_tested_ones(heading: str, rows: list[Row]) -> None:
    documented = list(rows_below(heading))

    assert sorted(documented) == sorted(row.name for row in rows)
