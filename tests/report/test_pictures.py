"""`gradguard report --html` in a real browser, and `--figure` as pixels."""

import base64
import html
import io
import json
import math
import os
import re
import shutil
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from gradguard import ByName, ClipNorm, ClipValue, __version__
from gradguard.clipping.policy import Policy
from gradguard.clipping.spec import as_data
from gradguard.errors import ConfigError
from gradguard.records.clips import ClipData, by_trainer
from gradguard.records.recording import STATISTICS, ClipInForce, Epochs, Recording
from gradguard.records.records import Floats
from gradguard.report.command import report
from gradguard.report.heatmap import heatmap
from gradguard.report.panels import Panel, overlays, panels, span_of
from gradguard.report.picture import draw
from gradguard.report.runs import Run
from gradguard.report.view import View, view
from tests.support.board import records, write

PATIENCE = 60  # seconds
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1400,1400")
HOSTILE = "</script><script>document.body.dataset.state='stolen'</script><b>$x$ \"q\""


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs: one explodes after 20 of 30 steps, one is clipped."""
    log_dir = tmp_path_factory.mktemp("pictures")
    names = ("hidden.weight", HOSTILE)
    before = np.geomspace(1, 1e9, 30)[:, None] * np.array([1.0, 3.0])
    before[20:] = np.inf
    write(log_dir / "version_0", records(before, names=names))
    steady = records(np.full((30, 2), 5.0), coefficient=0.1, names=names)
    clip = "ClipNorm(max_norm=0.7071, per_parameter=False)"
    write(log_dir / "version_1", steady, clip=clip)
    return log_dir


@pytest.fixture(scope="module")
def page(logs: Path) -> Path:
    file = logs / "report.html"
    report([logs], html=str(file), interactive=True)
    return file


@pytest.fixture(scope="module")
def plain(logs: Path) -> Path:
    file = logs / "plain.html"
    report([logs], html=str(file), typed="gradguard report logs --html plain.html")
    return file


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    """Debian's Chromium, without a network."""
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium")
    if not (driver and chromium):
        assert "CI" not in os.environ, "CI must run the page's tests"
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for option in OPTIONS:
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as driven:
        driven.execute_cdp_cmd("Network.enable", {})
        driven.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["http*"]})
        yield driven


def opened(browser: webdriver.Chrome, page: Path, *, dark: bool = False) -> None:
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    browser.get(page.as_uri())
    WebDriverWait(browser, PATIENCE, 0.1).until(
        lambda _: state(browser) in {"drawn", "stolen"}
    )


def state(browser: webdriver.Chrome) -> object:
    return browser.execute_script("return document.body.dataset.state")


def pictures(browser: webdriver.Chrome) -> list[dict[str, Any]]:
    """What the page's pictures show."""
    script = """
        return JSON.stringify([...document.querySelectorAll(".picture")].map(
            ({data, layout}) => ({title: layout.title.text, ink: layout.font.color,
                lines: data.map(({name, x, y}) => ({name, x, y}))})))"""
    drawn: list[dict[str, Any]] = json.loads(browser.execute_script(script))
    return drawn


def one(recording: Recording) -> Run:
    return Run("run", "run", "", recording)


def by_key(*runs: Run, shown: View | None = None) -> list[dict[str, Panel]]:
    drawn = panels(list(runs), shown or View())
    return [{panel.key: panel for panel in row} for row in drawn]


def norms_of(column: list[float]) -> Recording:
    return Recording(records(np.array(column)[:, None], names=("w",)))


def epochs(values: Floats) -> Recording:
    count = values.shape[1]
    names = tuple(f"{number}.w" for number in range(count))
    numbers = np.arange(-1, len(values) - 1)
    return Recording(
        records(np.ones((4, count)), names=names), epochs=Epochs(names, numbers, values)
    )


@pytest.mark.slow
def test_page_draws_every_picture_without_complaint(
    browser: webdriver.Chrome, page: Path
) -> None:
    opened(browser, page)

    titles = [picture["title"] for picture in pictures(browser)]
    assert [title.split(": ")[1] for title in titles] == [
        "loss by step",
        "total before clipping by step",
        *["loss by step", "gradient norms by step", "gradient norms by depth"] * 2,
    ]
    assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]  # selenium


@pytest.mark.slow
def test_page_shows_names_as_they_are(browser: webdriver.Chrome, page: Path) -> None:
    opened(browser, page)

    assert state(browser) == "drawn"
    legend = browser.find_elements(By.CSS_SELECTOR, ".legendtext")
    assert HOSTILE in {element.text for element in legend}
    browser.execute_script(
        "document.querySelectorAll('details').forEach((one) => (one.open = true))"
    )
    heads = browser.find_elements(By.CSS_SELECTOR, "details tbody th")
    assert HOSTILE in {element.text for element in heads}


@pytest.mark.slow
def test_page_says_what_the_document_says(
    browser: webdriver.Chrome,
    plain: Path,
    logs: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    browser.get(plain.as_uri())
    browser.execute_script(
        "document.querySelectorAll('details').forEach((one) => (one.open = true))"
    )
    shown = browser.find_element(By.TAG_NAME, "body").text

    report([logs], as_json=True)

    for run in json.loads(capsys.readouterr().out)["runs"]:
        assert run["suggestion"]["reason"] in shown
        assert run["verdict"]["text"] in shown
        assert run["verdict"].get("do", "") in shown
        for finding in run["verdict"].get("consequences", []):
            assert f"{finding['kind']}: {finding['text']} {finding['advice']}" in shown
    assert "non-finite steps 10, from step 20" in shown


@pytest.mark.slow
def test_verdict_is_seen_before_anything_is_scrolled(
    browser: webdriver.Chrome, logs: Path, tmp_path: Path
) -> None:
    report([logs / "version_0"], html=str(tmp_path / "one.html"))

    browser.get((tmp_path / "one.html").as_uri())

    [finding, *_] = browser.find_elements(By.CSS_SELECTOR, ".finding")
    assert finding.location["y"] + finding.size["height"] < 300
    assert "Trainer(gradient_clip_val=" in finding.text


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3, 11])
def test_nothing_is_cropped_on_a4(
    browser: webdriver.Chrome, tmp_path: Path, count: int
) -> None:
    names = tuple(f"model.encoder.layers.{i}.attention.weight" for i in range(30))
    for number in range(count):
        before = np.random.default_rng(number).lognormal(0, 1, (300, 30))
        write(tmp_path / f"run_{number}", records(before, names=names))
    file = tmp_path / "report.html"
    report([tmp_path], html=str(file))
    browser.get(file.as_uri())

    paper = browser.execute_cdp_cmd(
        "Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.69}
    )
    pdf = base64.b64decode(paper["data"])
    # Chromium lays a page out in 96ths of an inch, less its margins of 0.4 inches.
    screen = {"width": 717, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    wide = browser.execute_script("""
        return [...document.querySelectorAll("svg, img, figure, td, p, code, text")]
            .filter((one) => one.getBoundingClientRect().right > 717).length""")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})

    assert wide == 0
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 2 + 2 * min(count, 3)


@pytest.mark.slow
def test_eleven_runs_open_in_three_seconds_and_three_megabytes(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    for number in range(11):
        before = np.random.default_rng(number).lognormal(0, 1, (2000, 149))
        write(tmp_path / f"run_{number}", records(before))
    file = tmp_path / "report.html"
    report([tmp_path], html=str(file))

    start = time.monotonic()
    browser.get(file.as_uri())
    elapsed_s = time.monotonic() - start

    assert file.stat().st_size < 3e6
    assert elapsed_s < 3
    assert len(browser.find_elements(By.CSS_SELECTOR, ".overview tbody tr")) == 11
    width = "return document.documentElement.scrollWidth <= innerWidth"
    assert browser.execute_script(width)


def test_page_tells_when_and_by_what_it_was_made(plain: Path) -> None:
    text = plain.read_text()

    assert f"gradguard {__version__}" in text
    assert "<code>gradguard report logs --html plain.html</code>" in text
    assert f"{datetime.now():%Y-%m-%d}" in text


def test_plain_page_is_small_and_has_no_script(plain: Path) -> None:
    text = plain.read_text()

    assert len(text) < 200_000
    assert "<script" not in text.replace(html.escape(HOSTILE), "")
    assert not re.search(r"https?://|@import|url\(", text)


def test_heatmap_shows_the_spike_and_the_nan_where_they_are() -> None:
    before = np.ones((40, 3))
    before[10, 1] = 1000
    before[30, 2] = np.nan
    recording = Recording(records(before))

    heat = heatmap(recording, one(recording).verdict)

    pixels = heat.pixels.astype(int)
    assert pixels.shape == (3, 40, 3)
    assert pixels[2, 30].tolist() == [0, 0, 0]
    red = pixels[..., 0] - pixels[..., 2]
    assert divmod(int(np.argmax(red)), 40) == (1, 10)
    read = matplotlib.image.imread(
        io.BytesIO(base64.b64decode(heat.png.partition(",")[2])), format="png"
    )
    assert np.array_equal((read[..., :3] * 255).round().astype(int), pixels)


def test_heatmap_of_a_run_that_turns_bad_at_once_shows_its_beginning() -> None:
    before = np.full((400, 2), np.nan)
    before[:9] = 1.0
    recording = Recording(records(before))

    heat = heatmap(recording, one(recording).verdict)

    assert (heat.first_step, heat.last_step) == (0, 17)


@pytest.mark.slow
def test_page_follows_the_browser_into_the_dark(
    browser: webdriver.Chrome, page: Path
) -> None:
    inks = []
    for dark in (False, True):
        opened(browser, page, dark=dark)
        inks.append({picture["ink"] for picture in pictures(browser)})

    assert inks == [{"#212121"}, {"#eeeeee"}]


def test_page_asks_the_network_for_nothing(page: Path) -> None:
    text = page.read_text()

    own = text[: text.index("plotly.js v")] + text[text.rindex("<script>") :]
    assert not re.search(r"https?://|\bsrc=\"(?!data:)|@import|url\(", own)


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_figure_is_written_in_the_format_of_its_name(
    logs: Path, tmp_path: Path, suffix: str
) -> None:
    file = tmp_path / f"norms{suffix}"

    report([logs], figure=str(file))

    starts = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}
    assert file.read_bytes().startswith(starts[suffix])


def test_figure_is_a_slide_however_many_runs_there_are(
    logs: Path, tmp_path: Path
) -> None:
    for path in (logs / "version_0", logs):
        file = tmp_path / "norms.png"
        report([path], figure=str(file))
        pixels = matplotlib.image.imread(file)
        assert pixels.shape[:2] == (900, 1600)
        # Each half holds more than white.
        for half in np.array_split(pixels, 2, axis=0):
            assert half[..., :3].std() > 0.05


def test_figure_refuses_more_runs_than_fit(tmp_path: Path) -> None:
    runs = [one(norms_of([1.0]))] * 13

    with pytest.raises(ConfigError, match="draws 12 runs at most, got 13"):
        draw(runs, tmp_path / "norms.png", view=View())


def test_command_tells_where_it_wrote(
    logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "norms.svg"

    report([logs], figure=str(file), as_json=True)

    out, err = capsys.readouterr()
    assert err == f"wrote {file}\n"
    json.loads(out)


def test_steps_limit_what_is_drawn() -> None:
    recording = norms_of([1.0, 2.0, 3.0, 4.0])

    [drawn] = by_key(one(recording), shown=view(steps="1:3"))

    assert list(drawn["steps"].lines[0].x) == [1, 2]
    assert list(drawn["depth"].lines[0].y) == [(2.0 + 3.0) / 2]


def test_parameters_named_are_drawn_in_place_of_the_worst() -> None:
    recording = Recording(records(np.ones((3, 9))))

    [worst] = by_key(one(recording))
    [named] = by_key(one(recording), shown=view(parameters=r"\.[78]\."))

    assert len({line.name for line in worst["steps"].lines}) == 1 + 4
    names = ["layer.7.weight", "layer.8.weight"]
    assert [line.name for line in named["steps"].lines[::2]] == ["total", *names]
    assert list(named["depth"].ticks) == names


def test_runs_of_one_model_show_the_same_parameters_in_the_same_colours() -> None:
    rising, falling = np.eye(6)[:3], np.eye(6)[3:]
    runs = [one(Recording(records(before))) for before in (rising, falling)]

    drawn = by_key(*runs)

    looks = [[(line.name, line.color) for line in row["steps"].lines] for row in drawn]
    assert looks[0] == looks[1]


def test_threshold_is_drawn_where_it_held() -> None:
    recording = norms_of([1.0] * 6)
    clips = (ClipInForce(0, as_data([ClipNorm(5.0)])), ClipInForce(4, ClipData()))

    [drawn] = by_key(one(Recording(recording.records, clips)))

    [line] = [line for line in drawn["steps"].lines if line.style == "threshold"]
    assert (list(line.x), list(line.y)) == ([0, 3], [5.0, 5.0])


@pytest.mark.parametrize(
    ("policies", "drawn"),
    [
        ([ClipNorm(5.0), ClipNorm(1.0)], {"max_norm": 1.0}),
        ([ClipNorm(2.0, per_parameter=True)], {"max_norm, each parameter": 2.0}),
        (
            [ClipNorm(5.0), ClipNorm(2.0, per_parameter=True)],
            {"max_norm": 5.0, "max_norm, each parameter": 2.0},
        ),
        ([ByName({"a": ClipValue(9.0), "*": ClipNorm(1.0)})], {}),
        ([ClipValue(1.0)], {}),
    ],
)
def test_threshold_is_the_one_that_holds(
    policies: list[Policy], drawn: dict[str, float]
) -> None:
    records = norms_of([1.0] * 6).records

    [row] = by_key(one(Recording(records, (ClipInForce(0, as_data(policies)),))))

    lines = [line for line in row["steps"].lines if line.style == "threshold"]
    assert {line.name: line.y[0] for line in lines} == drawn


def test_nonfinite_steps_are_marked_above_all_lines() -> None:
    [drawn] = by_key(one(norms_of([1.0, np.inf, 100.0, np.nan])))

    lines = drawn["steps"].lines
    [marks] = [line for line in lines if line.style == "nonfinite"]
    assert list(marks.x) == [1, 3]
    assert min(marks.y) > 100.0


def test_no_spike_is_lost_in_a_long_run() -> None:
    before = np.ones((100_000, 1))
    before[54_321] = 1e6

    [drawn] = by_key(one(Recording(records(before))))

    total = drawn["steps"].lines[0]
    assert len(total.x) <= 1500
    assert max(total.y) == 1e6


def test_norm_of_zero_is_drawn_at_the_bottom() -> None:
    [drawn] = by_key(one(norms_of([1.0, 0.0, 1.0])))

    assert 0 < min(drawn["steps"].lines[0].y) < 1
    assert "at the bottom: so much or less" in drawn["steps"].x_label


def test_median_of_zero_is_a_mark_by_depth() -> None:
    recording = Recording(records(np.array([[0.0, 2.0]] * 3)))

    [drawn] = by_key(one(recording))

    [marks] = [line for line in drawn["depth"].lines if line.style == "zero"]
    assert list(marks.x) == [0]


def test_runs_are_overlaid_with_a_colour_or_a_dash_of_their_own() -> None:
    runs = [
        Run(f"run-{i}", "run", "", norms_of([1.0, 2.0, 10.0 * i + 1])) for i in range(8)
    ]

    loss, total = overlays(runs, View())

    assert (loss.key, total.key) == ("loss", "total_before")
    assert [line.name for line in total.lines] == [f"run-{i}" for i in range(8)]
    assert len({(line.color, line.style) for line in total.lines}) == 8
    assert [line.y[-1] for line in total.lines] == [10.0 * i + 1 for i in range(8)]


def test_loss_that_nobody_recorded_has_no_picture() -> None:
    recording = norms_of([1.0, 2.0])
    recording.records.loss[:] = np.nan

    [drawn] = by_key(one(recording))

    assert list(drawn) == ["steps", "depth"]


def test_steps_whose_loss_is_not_finite_are_marked() -> None:
    recording = norms_of([1.0, 2.0, 3.0])
    recording.records.loss[:] = [0.5, 0.4, np.inf]

    [drawn] = by_key(one(recording))

    [marks] = [line for line in drawn["loss"].lines if line.style == "nonfinite"]
    assert list(marks.x) == [2]


def test_statistics_are_drawn_by_epoch_from_before_training_on() -> None:
    values = np.random.default_rng(0).uniform(1, 2, (4, 3, len(STATISTICS)))
    recording = epochs(values.astype(np.float32))

    [drawn] = by_key(one(recording), shown=view(parameters="0|2"))

    assert list(drawn) == ["loss", "steps", "depth", *STATISTICS]
    sd = drawn["gradient_sd_after"]
    assert sd.log
    assert not drawn["gradient_mean_after"].log
    assert [line.name for line in sd.lines] == ["0.w", "2.w"]
    assert list(sd.lines[0].x) == [-1, 0, 1, 2]
    index = STATISTICS.index("gradient_sd_after")
    assert list(sd.lines[1].y) == values[:, 2, index].astype(np.float32).tolist()
    assert span_of([drawn["weight_mean"]]) is None


@pytest.mark.parametrize("name", ["$x_1$", "_private", "a\\b", "[red]", "100%"])
def test_figure_takes_any_name(tmp_path: Path, name: str) -> None:
    run = one(Recording(records(np.ones((3, 1)), names=(name,))))

    draw([run], tmp_path / "norms.svg", view=View())

    assert (tmp_path / "norms.svg").exists()


def test_threshold_without_end_has_no_place_on_the_axis() -> None:
    recording = norms_of([1.0] * 3)
    clips = (recording.clips[0]._replace(clip=by_trainer(math.inf, "norm")),)

    [drawn] = by_key(one(Recording(recording.records, clips)))

    span = span_of([drawn["steps"]])
    assert span is not None
    assert np.isfinite(span).all()


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_run_without_a_norm_to_draw_is_drawn(tmp_path: Path, value: float) -> None:
    draw([one(norms_of([value] * 3))], tmp_path / "norms.png", view=View())

    assert (tmp_path / "norms.png").exists()
