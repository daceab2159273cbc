"""`gradguard report`: facts, tables and JSON of real runs."""

import io
import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from gradguard import __version__
from gradguard.experiments.resolve import resolve
from gradguard.experiments.run import run
from gradguard.health.diagnosis import diagnose
from gradguard.health.threshold import suggest
from gradguard.records.records import LARGEST_FLOAT32_NORM
from gradguard.report.command import report
from gradguard.report.document import document
from gradguard.report.facts import facts
from gradguard.report.runs import Run, find_runs
from gradguard.report.table import print_report
from gradguard.report.view import View, view
from gradguard.tensorboard.reader import read_recordings, read_run
from tests.support import ROOT
from tests.support.board import records, write


def train(log_dir: Path, config: str, *assignments: str) -> Path:
    values = {"log_dir": str(log_dir)}
    common = ["trainer.accelerator=cpu", "trainer.max_epochs=2"]
    experiment = resolve(
        config=config, assignments=[*common, *assignments], values=values
    )
    outcome = run(experiment)
    assert outcome is not None  # a single process is of rank zero
    return outcome.run_dir


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five runs: one that diverges, one clipped, one with statistics by epoch, two more."""
    log_dir = tmp_path_factory.mktemp("report") / "runs"
    train(log_dir, "mlp-exploding")
    train(log_dir, "srn-cured")
    train(log_dir, "deep_mlp", "layer_statistics=true")
    for seed in (1, 2):
        train(log_dir, "srn-cured", f"seed={seed}", "trainer.max_steps=3")
    return log_dir


@pytest.fixture
def diverged(trained: Path) -> Path:
    return trained / "mlp-exploding" / "version_0"


@pytest.fixture
def clipped(trained: Path) -> Path:
    return trained / "srn-cured" / "version_0"


def printed(
    *paths: Path, width: int = 80, layers: bool = False, full: bool = False
) -> str:
    file = io.StringIO()
    console = Console(file=file, width=width, markup=False, highlight=False)
    print_report(find_runs(paths), console, view=View(), by_layer=layers, full=full)
    return file.getvalue()


def words(*paths: Path, layers: bool = False, full: bool = False) -> str:
    return " ".join(printed(*paths, layers=layers, full=full).split())


def the_run(path: Path) -> Run:
    [found] = find_runs([path]).runs
    return found


def parsed(*paths: Path, shown: View | None = None) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    text = document(find_runs(paths), view=shown or View())
    return json.loads(text, parse_constant=refuse)


def test_facts_of_a_clipped_run_are_those_of_its_norms(clipped: Path) -> None:
    norms = read_run(clipped)
    totals_before = [math.hypot(*row) for row in norms.before.astype(float)]
    totals_after = [math.hypot(*row) for row in norms.after.astype(float)]

    known = facts(the_run(clipped).recording)

    assert known.steps == known.last_step + 1 == 2 * 5
    assert known.parameters == 6
    assert known.clip_fraction == 1.0
    assert known.total_before_first == pytest.approx(totals_before[0])
    assert known.total_before_median == pytest.approx(
        sum(sorted(totals_before)[4:6]) / 2
    )
    assert known.total_before_largest == pytest.approx(max(totals_before))
    peak = totals_before.index(max(totals_before))
    assert known.total_before_largest_step == peak
    most = norms.names[int(np.argmax(norms.before[peak]))]
    assert known.total_before_largest_parameter == most
    assert known.total_after_largest_step == totals_after.index(max(totals_after))
    assert known.total_after_largest == pytest.approx(max(totals_after))
    assert known.smallest_coefficient == pytest.approx(
        min(np.divide(totals_after, totals_before))
    )
    assert known.nonfinite_steps == 0
    assert known.first_nonfinite_loss is None


def test_facts_of_a_diverged_run_are_of_its_finite_steps(diverged: Path) -> None:
    norms = read_run(diverged)
    finite = np.isfinite(norms.before).all(axis=1)
    totals = [math.hypot(*row) for row in norms.before[finite].astype(float)]

    known = facts(the_run(diverged).recording)

    assert known.nonfinite_steps == 2 * 16 - len(totals)
    assert known.first_nonfinite_step == len(totals)
    assert known.total_before_largest == pytest.approx(max(totals))
    assert known.overflow_steps == sum(total > LARGEST_FLOAT32_NORM for total in totals)
    assert known.first_nonfinite_loss == int(np.argmin(np.isfinite(norms.loss)))


def test_loss_that_nobody_recorded_is_not_called_nonfinite(tmp_path: Path) -> None:
    norms = records(np.ones((3, 2)))
    norms.loss[:] = np.nan
    write(tmp_path, norms)

    assert "non-finite loss not known" in words(tmp_path)


def test_skipped_and_refused_steps_are_counted_apart(tmp_path: Path) -> None:
    norms = records(np.ones((5, 2)))
    norms.skipped[:2] = True
    norms.refused[2] = True
    write(tmp_path, norms)

    assert "skipped by the scaler 2" in words(tmp_path)
    assert "refused by gradguard 1" in words(tmp_path)


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("layers", [False, True])
def test_table_fits_80_columns(trained: Path, count: int, layers: bool) -> None:
    directories = sorted(file.parent for file in trained.rglob("experiment.yaml"))

    lines = printed(*directories[:count], layers=layers, full=True).splitlines()

    assert max(map(len, lines)) <= 80
    text = "".join("".join(lines).split())
    for directory in directories[:count]:
        assert "".join(directory.parts[-2:]) in text.replace("/", "")


@pytest.mark.parametrize("width", [40, 60, 120, 200])
def test_table_fits_other_widths(trained: Path, width: int) -> None:
    lines = printed(trained, width=width, full=True).splitlines()

    # A line to copy stays one line.
    assert (
        max(len(line) for line in lines if not re.search("Do:|dump_dir=", line))
        <= width
    )


@pytest.mark.parametrize("width", [42, 60, 80])
def test_narrow_table_drops_no_letter(tmp_path: Path, width: int) -> None:
    code = "ByName({'a.*': ClipValue(clip_value=0.1), 'b.*': ClipNorm(max_norm=1.0)})"
    text = "ByName({'a.*': ClipValue(0.1), 'b.*': ClipNorm(1.0)})"
    for name in ("a", "b", "c"):
        write(tmp_path / name, records(np.ones((3, 2))), clip=code)

    rows = [line[24:] for line in printed(tmp_path, width=width).splitlines()]
    start = next(i for i, row in enumerate(rows) if "ByName" in row)
    stop = next(i for i, row in enumerate(rows) if "0.0% of" in row)
    letters = Counter("".join("".join(rows[start:stop]).split()))

    abreast = max(1, (width - 25) // 17)
    assert letters == Counter("".join(text.split()) * abreast)


def test_names_are_seen_in_a_narrow_table_by_layer(clipped: Path) -> None:
    lines = printed(clipped, width=60, layers=True).splitlines()

    names = "".join(line[1:15].strip() for line in lines)
    assert "embedding.weight" in names


def test_every_fact_stands_beside_each_run(trained: Path) -> None:
    text = printed(trained, width=200, full=True)

    [totals] = [line for line in text.splitlines() if "total before, first" in line]
    firsts = [
        math.hypot(*read_run(file.parent).before[0].astype(float))
        for file in sorted(trained.rglob("experiment.yaml"))
    ]
    assert totals.split()[3:] == [f"{first:.4g}" for first in firsts]


def test_piped_command_prints_no_escape_codes(
    clipped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report([clipped])

    assert "\x1b" not in capsys.readouterr().out


def test_findings_are_those_of_the_diagnosis(diverged: Path) -> None:
    [recording] = read_recordings(diverged).values()

    text = words(diverged, full=True)

    found = diagnose(recording)
    assert found
    for finding in found:
        assert f"{finding.severity} {finding} {finding.advice}" in text


def test_one_spike_is_told_with_its_step_and_tensor(tmp_path: Path) -> None:
    norms = np.random.default_rng(0).lognormal(0, 0.1, (200, 3))
    norms[150, 1] *= 278
    write(tmp_path, records(norms))

    (entry,) = parsed(tmp_path)["runs"]
    (spike,) = [one for one in entry["findings"] if one["kind"] == "spike"]

    assert (spike["step"], spike["parameter"]) == (150, "layer.1.weight")
    assert spike["severity"] == "warning"
    largest = f"{norms[150, 1]:.4g}"
    assert f"largest {largest}, step 150, layer.1.weight" in words(tmp_path)
    assert spike["text"] in words(tmp_path, full=True)
    assert spike["command"] in printed(tmp_path, width=60)


def test_threshold_is_the_one_suggested(diverged: Path) -> None:
    [recording] = read_recordings(diverged).values()

    text = words(diverged, full=True)

    suggestion = suggest(recording)
    assert f"Do: Trainer(gradient_clip_val={suggestion.max_norm:g})" in text
    assert f"max_norm {suggestion.max_norm:.4g}. {suggestion.reason}" in text


def test_clipping_stands_among_the_facts(clipped: Path) -> None:
    assert "clipping ClipNorm(5.0) " in words(clipped)


def test_clipping_of_a_foreign_run_is_told_as_code(tmp_path: Path) -> None:
    write(tmp_path, records(np.ones((3, 2))), clip="ClipValue(clip_value=0.5)")

    assert "clipping ClipValue(0.5) " in words(tmp_path)


def test_clip_that_changed_is_told_with_its_step(tmp_path: Path) -> None:
    for start, clip in ((0, "ClipValue(clip_value=0.5)"), (3, "")):
        part = records(np.ones((3, 2)), first=start)
        write(tmp_path, part, clip=clip)

    assert "ClipValue(0.5); from step 3 none" in words(tmp_path)


def test_optimizers_have_a_column_each(tmp_path: Path) -> None:
    run_dir = tmp_path / "gan" / "version_0"
    for factor, optimizer in ((3.0, "discriminator"), (4.0, "generator")):
        write(run_dir, records(factor * np.ones((5, 1))), optimizer=optimizer)

    text = printed(run_dir)

    [line] = [line for line in text.splitlines() if "total before, first" in line]
    assert line.split()[-2:] == ["3", "4"]
    assert "optimizer discriminator generator" in words(run_dir)


def test_runs_stand_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        write(tmp_path / f"version_{number}", records(np.ones((1, 1))))

    labels = [found.label for found in find_runs([tmp_path]).runs]

    assert labels == [f"{tmp_path.name}/version_{number}" for number in (1, 2, 10)]


def test_run_named_twice_is_told_once(clipped: Path, trained: Path) -> None:
    assert len(find_runs([clipped, trained, clipped]).runs) == 5


def test_names_are_printed_as_they_are(tmp_path: Path) -> None:
    norms = records(np.ones((3, 2)), names=("[red]a[/red]", ":boom: <b>$x$"))
    write(tmp_path, norms)

    assert "[red]a[/red] 1 1 1 1 1 1 :boom: <b>$x$ 1" in words(tmp_path, layers=True)


def test_table_by_layer_gives_the_quantiles_of_the_norms(tmp_path: Path) -> None:
    before = np.arange(1.0, 12.0)[:, None]
    write(tmp_path, records(before, names=("w",)))

    # 1, 2, ..., 11: first, last, 10th, 50th and 90th percentile, largest.
    assert "w 1 11 2 6 10 11" in words(tmp_path, layers=True)


def test_table_by_layer_compares_mean_abs_of_first_and_last_epoch(
    trained: Path,
) -> None:
    run_dir = trained / "deep_mlp" / "version_0"
    [recording] = read_recordings(run_dir).values()
    assert recording.epochs is not None
    values = recording.epochs["gradient_mean_abs_after"][:, 0].astype(float)
    first, last = values[0], values[-1]

    text = words(run_dir, layers=True)

    assert f"{first:.4g} {last:.4g} {last / first:.4g}" in text


def test_document_is_json_with_its_schema(diverged: Path, clipped: Path) -> None:
    content = parsed(diverged, clipped)

    assert content.keys() == {"version", "gradguard", "runs", "left_out"}
    assert content["gradguard"] == __version__
    assert content["version"] == 2
    for entry in content["runs"]:
        assert list(entry) == [
            "label",
            "directory",
            "optimizer",
            "clips",
            "unoptimized",
            "abandoned",
            "facts",
            "verdict",
            "findings",
            "suggestion",
            "layers",
        ]
    exploded, cured = content["runs"]
    assert cured["clips"][0]["max_norm"] == 5.0
    assert cured["clips"][0]["by"] == "gradguard"
    assert cured["clips"][0]["policies"] == [
        {
            "kind": "norm",
            "name": "ClipNorm",
            "number": 5.0,
            "options": {},
            "patterns": [],
        }
    ]
    assert exploded["directory"] == str(diverged)
    assert exploded["findings"][0]["severity"] == "error"
    assert [layer["name"] for layer in cured["layers"]] == list(read_run(clipped).names)


def test_document_has_no_number_that_json_lacks(tmp_path: Path) -> None:
    write(tmp_path, records(np.full((3, 2), np.nan)))

    [entry] = parsed(tmp_path)["runs"]

    assert entry["facts"]["total_before_first"] is None
    assert entry["facts"]["nonfinite_steps"] == 3


def test_schema_is_documented(clipped: Path) -> None:
    text = (ROOT / "docs/report.md").read_text()
    [entry] = parsed(clipped)["runs"]

    for field in (*entry, *entry["facts"], *entry["layers"][0], *entry["clips"][0]):
        assert f"`{field}`" in text, field


def test_view_limits_layers_but_neither_facts_nor_findings(clipped: Path) -> None:
    [whole] = parsed(clipped)["runs"]
    [part] = parsed(clipped, shown=view(steps="3:4", parameters="^cell"))["runs"]

    assert [layer["name"] for layer in part["layers"]] == ["cell.W", "cell.U", "cell.b"]
    norms = read_run(clipped).before[3, 1:4]
    assert [layer["before_largest"] for layer in part["layers"]] == norms.tolist()
    for unchanged in ("facts", "findings", "suggestion"):
        assert part[unchanged] == whole[unchanged]


def test_verdict_comes_before_the_facts(diverged: Path) -> None:
    lines = printed(diverged).splitlines()

    assert lines[1].startswith("  error: The gradient is not finite at step ")
    [do] = [number for number, line in enumerate(lines) if line.startswith("    Do:  ")]
    [facts_begin] = [n for n, line in enumerate(lines) if "parameters  " in line]
    assert do < facts_begin


def test_facts_of_which_there_is_nothing_to_say_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, records(np.ones((20, 2))))

    text = words(tmp_path)

    assert "Nothing found in 20 steps of 2 parameters." in text
    for fact in ("overflow", "scaler", "refused", "coefficient", "clipped", "after"):
        assert fact not in text


def test_several_runs_are_a_line_each_the_worst_first(tmp_path: Path) -> None:
    bad = np.ones((40, 2))
    bad[30:] = np.nan
    worse = np.ones((40, 2))
    worse[20:] = np.inf
    for name, norms in {
        "fine/version_0": np.ones((40, 2)),
        "bad/version_0": bad,
        "worse/version_0": worse,
        "many/version_0": np.ones((40, 2)),
        "many/version_1": np.ones((40, 2)),
    }.items():
        write(tmp_path / name, records(norms))

    first, *lines = printed(tmp_path).splitlines()

    assert first == "2 of 5 runs have errors."
    rows = [line.split() for line in lines if line.strip().startswith(("error", "ok"))]
    assert [row[:2] for row in rows] == [
        ["error", "worse"],
        ["error", "bad"],
        ["ok", "fine"],
        ["ok", "many/version_0"],
        ["ok", "many/version_1"],
    ]
    assert rows[0][2:] == ["nonfinite-gradient", "20", "0%"]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_names_of_many_runs_are_broken_at_their_parts(
    tmp_path: Path, width: int
) -> None:
    names = [f"experiment-with-a-long-name/of-many-parts/version_{i}" for i in range(5)]
    for name in names:
        write(tmp_path / name, records(np.ones((3, 2))))

    lines = printed(tmp_path, width=width).splitlines()

    assert max(map(len, lines)) <= width
    seen = {word.lower() for line in lines for word in re.findall("[A-Za-z]+", line)}
    assert seen <= {
        *[
            "experiment",
            "with",
            "a",
            "long",
            "name",
            "of",
            "many",
            "parts",
            "version",
            "nothing",
            "found",
        ],
        *[
            "run",
            "verdict",
            "since",
            "step",
            "clipped",
            "ok",
            "in",
            "runs",
            "one",
            "all",
            "full",
            "report",
        ],
        "gradguard",
    }


def test_table_says_what_the_trainer_clips_in_few_words(tmp_path: Path) -> None:
    code = "Trainer(gradient_clip_val=2.3, gradient_clip_algorithm='norm')"
    write(tmp_path, records(np.ones((3, 2))), clip=code)

    assert "clipping norm 2.3 (Trainer) " in words(tmp_path)
