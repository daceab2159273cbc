"""`gradguard reproduce`: the documents' claims, our bands, and the page."""

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from math import inf, nan, sqrt
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from torch import nn

from gradguard.experiments.resolve import resolve
from gradguard.records.records import Records
from gradguard.reproduction import command, measure
from gradguard.reproduction.headings import HEADINGS
from gradguard.reproduction.judge import left, spread, verdict
from gradguard.reproduction.studies import STUDIES
from gradguard.reproduction.study import Band, Study, Trial, TrialResult
from gradguard.reproduction.training import first_step, train
from gradguard.reproduction.work import Task
from tests.support.command_line import Call, in_a_process


@pytest.fixture
def call(gradguard: Call) -> Call:
    """Run `gradguard reproduce ...` in this process."""
    return partial(gradguard, "reproduce")


def of_seeds(label: str, *values: float) -> dict[str, dict[int, TrialResult]]:
    return {
        label: {seed: TrialResult({"test_mse": v}) for seed, v in enumerate(values)}
    }


def test_list_has_a_line_of_80_columns_for_each_experiment(call: Call) -> None:
    code, out, _ = call("--list")

    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == list(STUDIES)
    assert max(map(len, out.splitlines())) <= 80


def test_unknown_experiment_is_refused_with_the_nearest(call: Call) -> None:
    code, _, err = call("mlp-nrom")

    assert code == 2
    assert "no experiment 'mlp-nrom', did you mean 'mlp-norm'?" in err


def test_output_that_cannot_be_written_is_refused(call: Call, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    code, _, err = call("chain", "--output", str(tmp_path / "file"))

    assert code == 2
    assert "cannot be written" in err


@pytest.mark.parametrize(
    ("value", "holds"), [(1, True), (2, True), (2.1, False), (nan, False), (inf, False)]
)
def test_band_holds_between_its_ends(value: float, holds: bool) -> None:
    runs = {"a": TrialResult({"test_mse": value})}

    assert Band("a", "test_mse", low=1, high=2).holds(runs) is holds


def test_band_may_end_at_another_trial() -> None:
    runs = {"a": TrialResult({"test_mse": 1.0}), "b": TrialResult({"test_mse": 2.0})}

    assert Band("a", "test_mse", high="b").holds(runs)
    assert not Band("b", "test_mse", high="a").holds(runs)


@pytest.mark.parametrize(
    ("values", "told"),
    [((1, 1), "yes"), ((9, 9), "no"), ((1, 9, 1), "in 2 of 3 seeds")],
)
def test_claim_holds_where_it_does_in_every_seed(
    values: Sequence[float], told: str
) -> None:
    study = replace(STUDIES["chain"], expected=(Band("a", "test_mse", high=5),))

    assert verdict(study, of_seeds("a", *values)) == told


def test_band_that_is_left_is_told_with_its_seed() -> None:
    study = replace(STUDIES["chain"], bands=(Band("a", "test_mse", high=5),))

    (told,) = left(study, of_seeds("a", 1, 9))

    assert told == "chain, a, seed 1: test MSE is 9, and our band is at most 5"


@pytest.mark.parametrize("study", STUDIES.values(), ids=list(STUDIES))
def test_quick_mode_puts_claim_and_bands_to_the_test(study: Study) -> None:
    quick = {trial.label for trial in study.trials if trial.quick}

    assert study.expected
    for band in (*study.expected, *study.bands):
        assert band.trials <= quick
        assert band.number in HEADINGS
    assert set(study.numbers) <= set(HEADINGS)


def test_spread_is_the_median_and_the_range() -> None:
    results = of_seeds("a", 3, 1, 2000)

    assert spread(results, trial="a", number="test_mse") == "3 [1, 2,000]"


def test_spread_of_equal_values_is_the_value() -> None:
    assert spread(of_seeds("a", 3, 3), trial="a", number="test_mse") == "3"


def test_recurrent_norm_joins_w_u_and_b() -> None:
    model = nn.ParameterDict(
        {"cell": nn.ParameterDict(dict.fromkeys("WUb", nn.Linear(1, 1).weight))}
    )
    first, second = (3.0, 4.0, 12.0), (30.0, 40.0, 120.0)

    numbers = measure.of_records(
        records(("cell.W", "cell.U", "cell.b"), first, second), model, steps_per_epoch=1
    )

    assert numbers["recurrent_first"] == sqrt(3**2 + 4**2 + 12**2)
    assert numbers["recurrent_growth"] == 10


def test_layers_are_compared_first_to_last_hidden_and_to_output() -> None:
    model = nn.ModuleDict(
        {
            "hidden": nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1)]),
            "output": nn.Linear(1, 1),
        }
    )
    names = ("hidden.0.weight", "hidden.1.weight", "output.weight")

    numbers = measure.of_records(
        records(names, (1, 4, 10), (3, 4, 10), (2, 4, 10)), model, steps_per_epoch=1
    )

    assert numbers["first_over_last_hidden"] == 1 / 4
    assert numbers["first_over_output"] == 2 / 10


def test_first_step_is_the_one_that_training_takes(tmp_path: Path) -> None:
    whole = ("model.depth=6", "data.batch_size=1000", "trainer.max_steps=1")
    trial = Trial("a", "deep_mlp", whole)

    untrained = first_step(trial, seed=3).numbers
    trained = train(trial, seed=3, log_dir=str(tmp_path)).numbers

    for number in ("first_total_before", "first_over_last_hidden"):
        assert untrained[number] == pytest.approx(trained[number], rel=1e-4)


@pytest.mark.slow
def test_claim_that_does_not_hold_is_a_result(call: Call, tmp_path: Path) -> None:
    code, out, _ = call("clip-thirteen", "--quick", "--output", str(tmp_path))

    assert code == 0
    assert re.search(r"clip-thirteen .* no +hold", out)
    assert "**It does not hold.**" in (tmp_path / "README.md").read_text()


@pytest.mark.slow
def test_band_that_is_left_is_exit_code_1(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = Band("weights 0.8", "output", low=1)
    monkeypatch.setitem(STUDIES, "chain", replace(STUDIES["chain"], bands=(wrong,)))

    code, _, err = call("chain", "--quick", "--output", str(tmp_path))

    assert code == 1
    assert (
        "chain, weights 0.8, seed 0: y is 1.43e-05, and our band is at least 1" in err
    )


def test_run_that_dies_is_told_and_the_others_are_on_the_page(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = STUDIES["chain"]
    dying = tuple(replace(trial, compute=os.abort) for trial in chain.trials)
    monkeypatch.setitem(STUDIES, "chain", replace(chain, trials=dying))

    code, _, err = call("chain", "logistic-map", "--output", str(tmp_path))

    assert code == 1
    assert "a run of seed 0 failed: its process died, exit code -6" in err
    assert "## logistic-map" in (tmp_path / "README.md").read_text()


def test_ctrl_c_leaves_what_is_finished_on_the_page(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def until_ctrl_c(
        tasks: Sequence[Task], **_: int
    ) -> Iterator[tuple[Task, TrialResult]]:
        for task in tasks[:2]:
            yield task, TrialResult({"output": 1.0, "value": 1.0})
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "run_all", until_ctrl_c)

    code, _, err = call("chain", "logistic-map", "--output", str(tmp_path))
    page = (tmp_path / "README.md").read_text()

    assert code == 130
    assert "interrupted after 2 of 3 runs" in err
    assert "Not finished: `logistic-map`." in page
    assert "## chain" in page


def records(names: tuple[str, ...], *steps: Sequence[float]) -> Records:
    norms = np.array(steps, dtype=np.float32)
    never = np.zeros(len(steps), dtype=bool)
    return Records(
        names,
        steps=np.arange(len(steps)),
        before=norms,
        after=norms,
        missing=np.zeros_like(norms, dtype=bool),
        skipped=never,
        refused=never,
        loss=np.zeros(len(steps), dtype=np.float32),
    )


# One test, for workers of pytest-xdist would each train for a module's fixture.
@pytest.mark.slow
def test_quick_reproduction_is_whole_and_within_its_bands(tmp_path: Path) -> None:
    options = ("--quick", "--jobs", 2, "--output", tmp_path)
    code, _, err = in_a_process("reproduce", *options)
    page = (tmp_path / "README.md").read_text()

    assert (code, err) == (0, "")  # every band holds
    assert re.findall("^## (.*)", page, re.MULTILINE) == list(STUDIES)
    assert VERDICTS.items() <= verdicts(page).items()
    assert all((tmp_path / link).is_file() for link in links(page) if "#" not in link)
    assert {link[1:] for link in links(page) if "#" in link} == set(STUDIES)
    assert all(one_width(table) for table in tables(page))
    assert all(is_picture(tmp_path / f"{name}.png") for name in STUDIES)
    assert all(map(is_experiment, commands(page)))
    assert str(tmp_path) not in page
    assert str(Path.cwd()) not in page


# Those that came out so in all of 20 to 100 seeds.
VERDICTS = {
    "mlp-exploding": "yes",
    "mlp-norm": "no",
    "mlp-per-parameter": "yes",
    "circles-activation": "yes",
    "depth-forward": "no",
    "deep-mlp-exploding": "yes",
    "srn-exploding": "yes",
    "srn-cured": "yes",
    "srn-weight-decay": "no",
    "clip-vector": "no",
    "chain": "yes",
}


def verdicts(page: str) -> dict[str, str]:
    rows = re.findall(r"^\| \[(.*?)\].*\| (.*?) \| .*? \|$", page, re.MULTILINE)
    return dict(rows)


def links(page: str) -> list[str]:
    return re.findall(r"\]\(([^)]+)\)", page)


def tables(page: str) -> list[str]:
    return re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE)


def one_width(table: str) -> bool:
    return len({line.count("|") for line in table.splitlines()}) == 1


def is_picture(file: Path) -> bool:
    return file.stat().st_size < 80_000 and imread(file).shape[1] > 400


def commands(page: str) -> list[str]:
    return re.findall("^gradguard (?:train|inspect) .*", page, re.MULTILINE)


def is_experiment(line: str) -> bool:
    _, _, _, config, *options = shlex.split(line.removesuffix(" --full-batch"))
    return resolve(config=config, assignments=options[1::2]).name == config
