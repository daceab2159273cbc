"""`gradguard sweep`: what is run, what is not run again, what is told of it."""

import io
import json
import math
import os
import shutil
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gradguard.errors import ConfigError, Interrupted
from gradguard.experiments.resolve import resolve
from gradguard.experiments.run import run
from gradguard.experiments.workers import each
from gradguard.sweep import runner
from gradguard.sweep.cells import Summary
from gradguard.sweep.grid import Cell, clip_points, grid, points
from gradguard.sweep.results import Result, load, path, save
from gradguard.sweep.runner import Sweep, run_cells
from gradguard.sweep.table import document, print_sweep
from tests.support.command_line import Call, in_a_process, started
from tests.support.processes import wait_until
from tests.support.sweep_tasks import double, sleep

SHORT = ("trainer.max_steps=20", "trainer.accelerator=cpu")


@pytest.fixture
def call(gradguard: Call) -> Call:
    """Run `gradguard sweep ...` in this process."""
    return partial(gradguard, "sweep")


def norms(text: str) -> list[Any]:
    return clip_points(text, None, order=None, per_parameter=False)


def mlp_cells(log_dir: Path, text: str, *, seeds: int = 2) -> list[Cell]:
    return grid(
        [norms(text)],
        seeds=seeds,
        config="mlp",
        assignments=SHORT,
        values={"log_dir": str(log_dir)},
    )


def swept(cells: list[Cell], *, keep_runs: bool = False) -> Sweep:
    return run_cells(cells, jobs=2, keep_runs=keep_runs, console=Console(quiet=True))


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def ended(log_dir: Path) -> Sweep:
    return swept(mlp_cells(log_dir, "none,5"))


def test_results_lie_where_home_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    sweep = swept(mlp_cells(Path("~/runs"), "5", seeds=1))

    assert sweep.failures == ()
    assert not (tmp_path / "~").exists()
    assert len(list((tmp_path / "runs").rglob("*.json"))) == 1


def printed(sweep: Sweep) -> str:
    console = Console(file=io.StringIO(), width=80, markup=False)
    print_sweep(sweep, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def summary(*, mse: list[float], norm: float = 1.0, **fields: Any) -> Summary:
    results = [
        Result({"loss": x, "mse": x}, {"mse": 2 * x}, {"dead": 0.5}, 0.25, 10, **fields)
        for x in mse
    ]
    experiments = tuple(
        resolve(config="mlp", assignments=[f"seed={seed}"]) for seed in range(len(mse))
    )
    return Summary(Cell({"clip_norm": norm}, experiments), tuple(results))


def test_several_options_make_a_grid() -> None:
    cells = grid([norms("1,5"), points("model.width=10,20,30")], seeds=2, config="mlp")

    assert len(cells) == 2 * 3
    assert cells[4].values == {"clip_norm": 5, "model.width": 20}
    assert [experiment.seed for experiment in cells[4].experiments] == [0, 1]
    assert cells[4].experiments[1].clipping == "norm 5"
    assert cells[4].experiments[1].model.model_dump()["width"] == 20


def test_norms_and_values_are_crossed_in_the_order_that_is_asked() -> None:
    found = clip_points("none,1", "5,none", order="value,norm", per_parameter=True)
    cells = grid([found], seeds=1, config="mlp")

    assert [cell.experiments[0].clipping for cell in cells] == [
        "value 5",
        "none",
        "value 5, then norm 1 per parameter",
        "norm 1 per parameter",
    ]


def test_none_takes_a_clip_away_that_the_config_has() -> None:
    [cell] = grid([norms("none")], seeds=1, config="srn-cured")

    assert cell.experiments[0].clip == []


def test_values_may_be_names_numbers_and_whole_policies() -> None:
    chosen = [
        points("model.optimizer=sgd,adam"),
        points("clip=[],[{auto: 10}],[{norm: 1e-1}, {value: 2}]"),
    ]
    cells = grid(chosen, seeds=1, config="mlp")

    assert [cell.experiments[0].clipping for cell in cells[3:]] == [
        "none",
        "auto 10",
        "norm 0.1, then value 2",
    ]


def test_seeds_follow_that_of_the_experiment() -> None:
    [cell] = grid([], seeds=3, config="mlp", assignments=["seed=7"])

    assert [experiment.seed for experiment in cell.experiments] == [7, 8, 9]


def test_result_is_named_by_what_decides_it() -> None:
    def name(*assignments: str, log_dir: str = "runs") -> str:
        experiment = resolve(
            config="mlp", assignments=assignments, values={"log_dir": log_dir}
        )
        return path(experiment).name

    assert name() == name(log_dir="elsewhere") == name("trainer.log_every_n_steps=7")
    assert name() == name("model.width=25")  # which is the default
    different = ["seed=1", "model.width=26", "clip=[{norm: 5}]", "trainer.max_steps=9"]
    assert len({name(), *map(name, different)}) == 1 + len(different)


def test_result_survives_the_disk(tmp_path: Path) -> None:
    experiment = resolve(config="mlp", values={"log_dir": str(tmp_path)})
    train = {"mse": 1.5, "loss": math.inf}
    result = Result(train, {"mse": math.nan}, {"dead": 0.5}, 0.25, 10, 7)

    assert load(experiment) is None
    save(experiment, result)

    found = load(experiment)
    assert found is not None
    assert math.isnan(found.test["mse"])
    assert (found.train, found.units) == (result.train, result.units)
    assert (found.clip_fraction, found.first_nonfinite_loss) == (0.25, 7)
    assert "NaN" not in path(experiment).read_text()
    assert list(path(experiment).parent.iterdir()) == [path(experiment)]


@pytest.mark.parametrize(
    "text",
    ['{"result": {"train"', "[1]", '{"result": {"train": {}}}', '{"result": [1]}'],
)
def test_file_that_is_no_result_is_none(tmp_path: Path, text: str) -> None:
    experiment = resolve(config="mlp", values={"log_dir": str(tmp_path)})
    path(experiment).parent.mkdir(parents=True)
    path(experiment).write_text(text)

    assert load(experiment) is None


def test_workers_give_every_task_back_with_its_position() -> None:
    assert dict(each(double, [10, 20, 30], jobs=2)) == {0: 20, 1: 40, 2: 60}


def test_worker_that_dies_costs_its_own_task_only() -> None:
    given = dict(each(double, [1, 3, 2, 5, 6, 4], jobs=1))

    assert (given[0], given[2], given[5]) == (2, 4, 8)
    assert str(given[1]) == "its process died, exit code 7"
    assert str(given[3]) == "OSError: disk full"
    assert isinstance(given[4], ConfigError)


def test_workers_end_when_the_caller_stops() -> None:
    import multiprocessing

    endings = each(sleep, [0, 600], jobs=2)

    assert next(endings) == (0, 0)
    endings.close()
    assert multiprocessing.active_children() == []


def test_cell_counts_diverged_runs_and_spreads_over_the_others() -> None:
    cell = summary(mse=[3.0, math.nan, 1.0, 2.0, 10.0])

    assert cell.diverged == 1
    assert cell.spread("train", "mse") == ((2 + 3) / 2, 1.0, 10.0)
    assert cell.spread("test", "mse") == (2 * (2 + 3) / 2, 2.0, 20.0)


def test_cell_of_diverged_runs_has_no_spread() -> None:
    assert summary(mse=[math.nan, math.inf]).spread("train", "mse") is None


def test_diverging_run_is_a_result(ended: Sweep) -> None:
    none, clipped = ended.summaries

    assert ended.failures == ()
    assert (none.diverged, clipped.diverged) == (2, 0)
    assert [result.steps for result in none.ended] == [20, 20]
    assert all(4 <= (one.first_nonfinite_loss or 0) <= 20 for one in none.ended)
    assert none.clip_fraction == (0, 0, 0)
    assert clipped.clip_fraction == (1, 1, 1)
    assert clipped.spread("units", "dead") is not None


def test_run_of_a_sweep_is_the_run_of_train(ended: Sweep, tmp_path: Path) -> None:
    experiment = ended.summaries[1].cell.experiments[1]
    result = ended.summaries[1].ended[1]

    outcome = run(experiment.model_copy(update={"log_dir": str(tmp_path)}))

    assert outcome is not None
    assert (outcome.train, outcome.test) == (result.train, result.test)
    assert outcome.units == result.units


def test_nothing_but_results_is_kept(ended: Sweep, log_dir: Path) -> None:
    files = [file for file in log_dir.rglob("*") if file.is_file()]

    assert len(files) == 2 * 2
    assert all(file.parent == log_dir / "mlp" / "sweep" for file in files)
    assert {file.suffix for file in files} == {".json"}
    assert ended.reused == 0


def test_same_sweep_runs_nothing(
    ended: Sweep, log_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(_: object, tasks: list[object], **__: int) -> Iterator[Any]:
        assert tasks == []
        yield from ()

    monkeypatch.setattr(runner, "each", none)

    again = swept(mlp_cells(log_dir, "none,5"))

    assert again.reused == 2 * 2
    assert again.summaries[1] == ended.summaries[1]


def test_changed_sweep_runs_what_is_new(
    ended: Sweep, log_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(log_dir, tmp_path, dirs_exist_ok=True)
    del ended
    more = swept(mlp_cells(tmp_path, "5,7", seeds=1))

    assert more.reused == 1
    assert [len(summary.ended) for summary in more.summaries] == [1, 1]


def test_runs_are_kept_where_it_is_asked(tmp_path: Path) -> None:
    from gradguard.tensorboard.reader import read_run

    cells = mlp_cells(tmp_path, "5", seeds=1)

    kept = swept(cells, keep_runs=True)

    [result] = kept.summaries[0].ended
    assert result.run_dir is not None
    assert len(read_run(result.run_dir).steps) == 20
    assert swept(cells, keep_runs=True).reused == 1


def test_run_that_stops_itself_has_diverged(tmp_path: Path) -> None:
    cells = grid(
        [],
        seeds=1,
        config="mlp",
        assignments=[*SHORT, "on_nonfinite=raise"],
        values={"log_dir": str(tmp_path)},
    )

    sweep = swept(cells)

    [result] = sweep.summaries[0].ended
    assert result.diverged
    assert "gradients are not finite" in str(result.stopped)
    assert "1/1" in printed(sweep)


def test_failed_run_is_told_beside_the_results_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    monkeypatch.setattr(runner, "train", dies_at_five)

    code, out, err = call(
        "--model", "mlp", "--clip-norm", "1,5", "--seeds", "1",
        "--log-dir", str(tmp_path),
    )  # fmt: skip

    assert code == 1
    assert "gradguard: clip_norm=5, seed 0 failed: its process died" in err
    assert "0.25" in out


def dies_at_five(settings: Any, *, scratch: str, keep_runs: bool) -> Result:
    del scratch, keep_runs
    if settings["clip"][0]["norm"] == 5:
        os._exit(9)
    return Result({"mse": 0.25}, {"mse": 0.25}, {}, 0.0, 1)


def test_ctrl_c_says_how_far_it_got(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> Any:
        yield 1, Result({"mse": 1.0}, {"mse": 1.0}, {}, 0.0, 1)
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "each", interrupted)
    cells = mlp_cells(tmp_path, "1,5", seeds=2)

    with pytest.raises(
        Interrupted,
        match=r"^interrupted after 1 of 4 runs; the same command goes on$",
    ):
        swept(cells)
    assert load(cells[0].experiments[1]) is not None


@pytest.mark.slow
def test_sweep_goes_on_where_ctrl_c_ended_it(tmp_path: Path) -> None:
    command = (
        *("sweep", "--model", "mlp", "--clip-norm", "1,2,5,10", "--seeds", 1),
        *("--log-dir", tmp_path, "--set", "trainer.max_steps=40"),
    )
    process = started(*command, start_new_session=True)
    results = tmp_path / "mlp" / "sweep"
    wait_until(lambda: list(results.glob("*.json")), process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: its workers, too
    _, err = process.communicate()
    there = {file: file.stat().st_mtime_ns for file in results.glob("*.json")}

    assert process.returncode == 130
    [line] = err.splitlines()
    assert line.endswith(f"after {len(there)} of 4 runs; the same command goes on")
    _, again, _ = in_a_process(*command, "--json")
    assert json.loads(again)["reused"] == len(there)
    assert {file: file.stat().st_mtime_ns for file in there} == there


@pytest.mark.slow
def test_norm_of_500_leaves_finite_losses_and_dead_units(tmp_path: Path) -> None:
    cells = grid(
        [norms("5,500")],
        seeds=1,
        config="mlp",
        assignments=["trainer.accelerator=cpu", "trainer.max_epochs=30"],
        values={"log_dir": str(tmp_path)},
    )

    five, large = swept(cells).summaries

    # Ten seeds of plain torch gave 20390, the variance of the targets being 20381.
    assert large.diverged == 0
    assert large.spread("units", "dead") == (1, 1, 1)
    train = large.spread("train", "mse")
    assert train is not None
    assert train.median == pytest.approx(20390, rel=0.02)
    learned = five.spread("train", "mse")
    assert learned is not None
    assert learned.max < 100


def test_table_fits_80_columns(ended: Sweep) -> None:
    assert max(map(len, printed(ended).splitlines())) <= 80


def test_table_names_the_runs(ended: Sweep) -> None:
    text = " ".join(printed(ended).split())

    assert "2/2" in text
    assert "mlp: 4 runs. Median [smallest, largest] over 2 seeds" in text


def test_table_names_what_did_not_vary_below() -> None:
    cells = grid([norms("1,5"), points("model.lr=0.1")], seeds=1, config="mlp")
    results = (Result({"mse": 1.0}, {"mse": 1.0}, {}, 0.5, 1),)

    text = printed(Sweep(tuple(Summary(cell, results) for cell in cells), (), 0))

    assert "lr 0.1: 2 runs." in text
    assert "lr" not in text.splitlines()[1]


def test_json_has_what_the_table_has(ended: Sweep) -> None:
    none, clipped = json.loads(document(ended))["cells"]

    spread = ended.summaries[1].spread("test", "mse")
    assert spread is not None
    assert clipped["test"]["mse"] == spread._asdict()
    assert none["settings"] == {"clip_norm": None}
    assert none["diverged"] == 2
    assert none["test"]["mse"] is None


def test_json_has_every_run(ended: Sweep) -> None:
    _, clipped = json.loads(document(ended))["cells"]

    assert [one["seed"] for one in clipped["runs"]] == [0, 1]


@pytest.mark.parametrize("kind", ["norm", "optimizer", "grid"])
def test_picture_shows_every_value_and_what_diverged(
    tmp_path: Path, kind: str, ended: Sweep
) -> None:
    from gradguard.sweep.picture import draw

    values: dict[str, list[dict[str, Any]]] = {
        "norm": [{"clip_norm": norm} for norm in (0.5, None)],
        "optimizer": [{"model.optimizer": name} for name in ("sgd", "adam")],
        "grid": [
            {"clip_norm": norm, "model.width": width}
            for norm in (0.5, 2)
            for width in (25, 50)
        ],
    }
    halves = ended.summaries * 2
    summaries = tuple(
        Summary(Cell(one, half.cell.experiments), half.results)
        for one, half in zip(values[kind], halves, strict=False)
    )

    draw(summaries, tmp_path / "sweep.svg")

    text = (tmp_path / "sweep.svg").read_text()
    shown = {"norm": "none", "optimizer": "adam", "grid": "test width 50"}
    assert shown[kind] in text
    assert "2/2 diverged" in text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            "--clip-norm 1,-5",
            "clip[0].norm (--clip-norm) should be greater than 0, got -5",
        ),
        (
            "--sweep model.widht=5,6",
            "model.widht is not a setting, did you mean model.width?",
        ),
        ("--sweep model.width", "--sweep expects KEY=VALUES, got 'model.width'"),
        ("--sweep model.width=", "model.width has no value"),
        ("--sweep =5", "--sweep expects KEY=VALUES, got '=5'"),
        (
            "--seeds 99999999999999999999",
            "Invalid value for '--seeds': Input should be less than or equal to 10000",
        ),
        ("--sweep model.width=5,5", "model.width=5 is in the sweep twice"),
        ("--per-parameter", "--per-parameter needs --clip-norm"),
        (
            "--clip-norm 1,,2",
            "--clip-norm '1,,2' is not YAML: expected the node content, but found ','",
        ),
        ("--lr 0.1,fast", "model.lr should be a valid number, got 'fast'"),
        ("--figure x.png", "--figure needs a setting with several values"),
        (
            "--clip-norm 1,2 --figure x.gif",
            "--figure should end in .png or .svg or .pdf, got 'x.gif'",
        ),
        (
            "--set trainer.devices=2",
            "trainer.devices 2 is not for a sweep, whose runs have one device each",
        ),
    ],
)
def test_mistake_is_told_before_anything_runs(
    call: Call, tmp_path: Path, arguments: str, sentence: str
) -> None:
    log_dir = tmp_path / "runs"

    code, out, err = call(
        "--model", "mlp", "--log-dir", str(log_dir), *arguments.split()
    )

    assert (code, out, err) == (2, "", f"gradguard: error: {sentence}\n")
    assert not log_dir.exists()


def test_mistake_in_the_last_cell_is_told_before_the_first_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "each", None)
    cells = grid(
        [points("data.length=5,2")],
        seeds=1,
        config="srn",
        values={"log_dir": str(tmp_path)},
    )

    with pytest.raises(ConfigError, match=r"^data\.length must be at least 3, got 2$"):
        swept(cells)
