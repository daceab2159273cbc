"""The Gradients page as someone meets it whose run went wrong: the verdict, then its proof."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from gradguard.records.records import Records, from_stored
from gradguard.tensorboard.reader import read_run
from tests.support.board import board, write
from tests.support.page import (
    PATIENCE,
    Page,
    rows_drawn,
    status_becomes,
    steps_drawn,
    verdict,
)

SIZES = [(1280, 800), (1440, 900), (1920, 1080), (2560, 1440)]
STRIPS = ("loss", "totals", "events", "parameter-chart", "coefficient", "heatmap")
SPIKED = "model.encoder.layers.7.self_attn.out_proj.weight"
CULPRIT = "model.encoder.layers.3.linear1.weight"
BLOCKS = 12


def transformer() -> tuple[str, ...]:
    """The names of 149 tensors: 12 blocks of 12, and 5 around them."""
    inside = [
        *(f"self_attn.{name}" for name in ("in_proj_weight", "in_proj_bias")),
        *(f"self_attn.out_proj.{kind}" for kind in ("weight", "bias")),
        *(
            f"{module}.{kind}"
            for module in ("linear1", "linear2", "norm1", "norm2")
            for kind in ("weight", "bias")
        ),
    ]
    blocks = [
        f"model.encoder.layers.{block}.{name}"
        for block in range(BLOCKS)
        for name in inside
    ]
    first = ["model.embed.weight", "model.position.weight"]
    last = ["model.norm.weight", "model.norm.bias", "model.head.weight"]
    return (*first, *blocks, *last)


def with_loss(
    before: NDArray[np.floating],
    *,
    names: tuple[str, ...],
    coefficient: NDArray[np.floating] | float = 1.0,
) -> Records:
    """Records whose loss falls from 4, and is NaN where any gradient was the step before."""
    after = before * coefficient
    norms = np.stack([before, after], -1).astype(np.float32)
    steps = np.arange(len(before))
    loss = (4 * np.exp(-steps / 150) + 0.2).astype(np.float32)
    bad = np.flatnonzero(np.isnan(before).any(axis=1))
    if len(bad):
        loss[bad[0] + 1 :] = np.nan
    return from_stored(names, steps.astype(np.int64), norms, loss)


def spiked(names: tuple[str, ...], *, steps: int) -> NDArray[np.floating]:
    """Norms with one spike, x452 of the total, at 45 % of the steps."""
    norms = np.random.default_rng(0).lognormal(0, 0.2, (steps, len(names))) * 0.1
    total = np.sqrt((norms[steps * 9 // 20] ** 2).sum())
    norms[steps * 9 // 20, names.index(SPIKED)] = 452 * total
    return norms


@pytest.fixture(scope="module")
def logdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run for each thing that goes wrong, and a healthy one."""
    logdir = tmp_path_factory.mktemp("verdict") / "runs"
    names = transformer()
    gpt = spiked(names, steps=320)
    write(
        logdir / "gpt-clipped" / "version_0",
        with_loss(
            gpt,
            names=names,
            coefficient=np.minimum(1, 1 / np.sqrt((gpt**2).sum(axis=1)))[:, None],
        ),
        clip="ClipNorm(max_norm=1.0, per_parameter=False)",
    )
    gpt = gpt.copy()
    gpt[272, names.index(CULPRIT)] = np.nan
    gpt[273:] = np.nan
    write(logdir / "gpt" / "version_0", with_loss(gpt, names=names))

    layers = (*(f"hidden.{i}.weight" for i in range(10)), "output.weight")
    noise = np.random.default_rng(1).lognormal(0, 0.1, (200, 11))
    fading = noise * 10.0 ** -np.arange(10, -1, -1)
    write(logdir / "vanishing" / "version_0", with_loss(fading, names=layers))
    write(logdir / "healthy" / "version_0", with_loss(noise, names=layers))
    growing = noise[:, :4] * 100
    growing[:9] *= 10.0 ** (np.arange(9)[:, None] * 2)
    growing[9:] = np.nan
    write(logdir / "exploded" / "version_0", with_loss(growing, names=layers[:4]))

    marks = np.ones((3000, 4))
    norms = np.stack([marks, marks], -1)
    norms[1234, :, 1] = 0.5
    norms[777, :, 1] = -2  # gradguard kept it from the weights
    norms[2345, 2] = np.nan
    write(
        logdir / "marks" / "version_0",
        from_stored(
            layers[:4],
            np.arange(3000),
            norms.astype(np.float32),
            np.ones(3000, np.float32),
        ),
    )
    return logdir


@pytest.fixture(scope="module")
def page(logdir: Path, browser: webdriver.Chrome, shots: Path) -> Iterator[Page]:
    with board(logdir) as tensorboard:
        tensorboard.wait(lambda: len(tensorboard.runs()) == 6)
        yield Page(browser, tensorboard, shots)
        browser.get("about:blank")  # an open page would ask on


@pytest.fixture(autouse=True)
def _calm(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test starts at one size, and ends without a word in the console."""
    page = request.getfixturevalue("page")
    page.resize(1280, 800)
    yield
    assert page.complaints() == []


def opened(page: Page, run: str, **view: Any) -> None:
    page.open(run=f"{run}/version_0", **view)


def bottom(page: Page, element: str) -> float:
    """Return how far down the window an element ends, TensorBoard's header included."""
    script = """
        const box = document.getElementById(arguments[0]).getBoundingClientRect();
        return window.frameElement.getBoundingClientRect().y + box.bottom"""
    return float(page.run(script, element))


def selected_steps(page: Page) -> set[float]:
    """Return where the charts over steps have their line."""
    script = """
        return arguments[0].map((id) => document.getElementById(id))
            .filter((panel) => !panel.hidden).map(({layout}) => layout.shapes[0].x0)"""
    return set(page.run(script, STRIPS))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", SIZES, ids=[str(width) for width, _ in SIZES])
def test_verdict_and_its_proof_are_seen_without_scrolling(
    page: Page, size: tuple[int, int], dark: bool
) -> None:
    page.resize(*size)
    opened(page, "gpt", dark=dark)
    page.shoot(f"gpt-{size[0]}-{'dark' if dark else 'light'}")

    said = verdict(page)
    assert "The gradient is not finite at step 272" in said
    assert CULPRIT in said
    assert 'Do: GradGuard(on_nonfinite="skip", dump_dir="bad-steps")' in said
    assert bottom(page, "verdict") < 300
    assert bottom(page, "heatmap") < size[1]
    wide = "return document.documentElement.scrollWidth > document.documentElement.clientWidth"
    assert not page.run(wide)


def test_verdict_is_seen_with_tensorboards_own_loader(
    logdir: Path, browser: webdriver.Chrome, shots: Path
) -> None:
    with board(logdir, load_fast="false") as tensorboard:
        tensorboard.wait(lambda: len(tensorboard.runs()) == 6)
        page = Page(browser, tensorboard, shots)
        for size, dark in product(SIZES, (False, True)):
            page.resize(*size)

            opened(page, "gpt", dark=dark)

            assert CULPRIT in verdict(page)
            assert bottom(page, "verdict") < 300
            assert bottom(page, "heatmap") < size[1]
        browser.get("about:blank")


def test_run_that_is_not_finite_is_opened_at_the_steps_before(page: Page) -> None:
    opened(page, "gpt")

    assert steps_drawn(page) == [272 - 50 - 0.5, 272 + 10 + 0.5]
    assert selected_steps(page) == {272}
    assert page.title("parameter-chart") == CULPRIT


def test_explosion_is_opened_at_its_steps_in_absolute_norms(page: Page) -> None:
    opened(page, "exploded")
    page.shoot("exploded")

    assert steps_drawn(page) == [-0.5, 20.5]
    assert page.chosen("scale") == "absolute"
    # The last step with anything to see at all.
    assert page.title("profile") == "Norm by layer at step 8"


def test_vanishing_is_opened_by_depth_in_absolute_norms(page: Page) -> None:
    opened(page, "vanishing")
    page.shoot("vanishing")

    assert page.chosen("scale") == "absolute"
    blocks = [f"hidden.{i}" for i in range(10)] + ["output"]
    assert rows_drawn(page)[2] == blocks
    assert page.title("parameter-chart").startswith("hidden.")
    medians = page.run(
        """
        return document.getElementById("heatmap").data[0].z.map((row) => row[100])"""
    )
    assert medians == sorted(medians)


def test_healthy_run_is_said_to_be(page: Page) -> None:
    opened(page, "healthy")
    page.shoot("healthy")

    assert "Nothing found in 200 steps of 11 parameters." in verdict(page)
    band = page.browser.find_element(By.ID, "verdict")
    assert band.get_attribute("data-severity") == "good"


def test_advice_has_its_number_and_the_chart_has_its_line(
    page: Page, logdir: Path
) -> None:
    opened(page, "exploded")

    first = float(read_run(logdir / "exploded" / "version_0").total_before[0])
    suggested = float(f"{first / 100:.2g}")
    assert f"Do: Trainer(gradient_clip_val={suggested:g})" in verdict(page)
    assert page.traces("totals")["suggested"][1] == [suggested, suggested]


def test_line_to_copy_is_copied(page: Page) -> None:
    opened(page, "exploded")
    button = page.browser.find_element(By.CSS_SELECTOR, "#verdict .do button")

    button.click()

    WebDriverWait(page.browser, PATIENCE).until(lambda _: button.text != "copy")
    line = page.browser.find_element(By.CSS_SELECTOR, "#verdict .do code").text
    if button.text == "press Ctrl-C":  # where the browser lets nobody write
        assert page.run("return getSelection().toString()") == line
    else:
        assert button.text == "copied"


def test_chosen_finding_is_marked_and_all_charts_have_a_line_at_its_step(
    page: Page,
) -> None:
    opened(page, "gpt")
    tabs = "#verdict [role=toolbar] button"
    second = page.browser.find_elements(By.CSS_SELECTOR, tabs)[1]
    kind = second.get_attribute("data-kind")
    page.run("document.body.dataset.state = 'clicked'")

    second.click()
    page.wait_until_drawn()

    current = page.browser.find_elements(By.CSS_SELECTOR, f"{tabs}[aria-current=true]")
    assert [one.get_attribute("data-kind") for one in current] == [kind]
    assert selected_steps(page) == {float(page.value("#step"))}
    assert f"step {page.value('#step')}" in current[0].text


def places(page: Page, step: float) -> list[float]:
    """Return where a step is in the window, in each chart over steps that is seen."""
    script = """
        return arguments[0].map((id) => document.getElementById(id))
            .filter((panel) => !panel.hidden)
            .map((panel) => panel.getBoundingClientRect().x
                + panel._fullLayout.xaxis._offset + panel._fullLayout.xaxis.l2p(arguments[1]))"""
    return [float(place) for place in page.run(script, STRIPS, step)]


@pytest.mark.parametrize("size", [SIZES[0], SIZES[-1]], ids=["1280", "2560"])
def test_step_is_at_one_place_in_all_charts(page: Page, size: tuple[int, int]) -> None:
    page.resize(*size)
    opened(page, "gpt-clipped", start=100, stop=200)

    assert len(places(page, 150)) == len(STRIPS)
    assert np.ptp(places(page, 150)) < 1
    assert np.ptp(places(page, 199)) < 1


def test_zoom_in_a_strip_is_the_zoom_of_all(page: Page) -> None:
    opened(page, "gpt-clipped", start=0)
    page.run("document.body.dataset.state = 'zoomed'")

    page.run(
        """Plotly.relayout("totals", {"xaxis.range[0]": 40, "xaxis.range[1]": 80})"""
    )
    page.wait_until_drawn()

    assert steps_drawn(page) == [39.5, 80.5]
    assert page.traces("loss")["loss"][0] == list(range(40, 81))
    assert np.ptp(places(page, 60)) < 1


def test_one_cursor_runs_through_all_charts_and_the_tip_tells_the_cell(
    page: Page, logdir: Path
) -> None:
    opened(page, "gpt-clipped", group="parameter", filter=r"layers\.7", start=100)

    page.point(row=2, step=144)

    tip = page.browser.find_element(By.ID, "tip")
    records = read_run(logdir / "gpt-clipped" / "version_0")
    column = records.names.index(SPIKED)
    before = float(records.before[144, column])
    after = float(records.after[144, column])
    WebDriverWait(page.browser, PATIENCE).until(lambda _: "before" in tip.text)
    assert tip.text.startswith(SPIKED)
    assert f"before {before:.4g}, after {after:.4g}" in tip.text
    assert "clipped" in tip.text
    cursor = page.browser.find_element(By.ID, "cursor").rect
    timeline = page.browser.find_element(By.ID, "timeline").rect
    assert cursor["height"] > 0.99 * timeline["height"] - 2
    assert cursor["x"] == pytest.approx(places(page, 144)[0], abs=3)


@pytest.mark.parametrize("window", [{"start": 0}, {"start": 700, "stop": 2400}])
def test_single_step_is_marked_at_any_zoom(page: Page, window: dict[str, int]) -> None:
    opened(page, "marks", **window)

    lanes = page.run(
        """
        const {z, x0, dx, x} = document.getElementById("events").data[0];
        return z.map((lane) => lane.flatMap((cell, i) =>
            cell === null ? [] : [x ? [x[i] + 0.5, x[i + 1] - 0.5]
                : [x0 + dx * i - (dx - 1) / 2, x0 + dx * i + (dx - 1) / 2]]))"""
    )

    for lane, step in zip(lanes, [1234, 777, 2345], strict=True):
        [(first, last)] = lane
        assert first <= step <= last
    width, count = page.run(
        """
        const {z} = document.getElementById("events").data[0];
        return [document.getElementById("events")._fullLayout.xaxis._length, z[0].length]"""
    )
    assert width / count >= 2  # pixels


def test_names_are_whole_where_there_is_room(page: Page) -> None:
    page.resize(2560, 1440)
    opened(page, "gpt-clipped", group="parameter", filter="layers")
    page.shoot("names")

    assert set(rows_drawn(page)[2]) <= set(transformer())


def test_names_lose_what_they_share_where_there_is_not(page: Page) -> None:
    opened(page, "gpt-clipped", group="parameter", filter=r"layers\.7")

    labels = rows_drawn(page)[2]
    assert labels[:2] == ["self_attn.in_proj_weight", "self_attn.in_proj_bias"]
    caption = page.browser.find_element(By.ID, "caption").text
    assert caption == "in model.encoder.layers.7"


def test_run_is_named_without_its_only_version(page: Page) -> None:
    opened(page, "gpt", compare=["gpt-clipped/version_0"])
    page.shoot("compared-gpt")

    name = page.browser.find_element(By.ID, "run-name")
    assert name.text.split() == ["gpt", "gpt-clipped"]
    lines = page.run(
        """
        return [...document.querySelectorAll("#run-name .swatch")].map(
            (mark) => getComputedStyle(mark).backgroundColor)"""
    )
    assert len(set(lines)) == 2


def test_profile_of_149_tensors_has_a_line_for_each_kind_over_blocks(
    page: Page, logdir: Path
) -> None:
    opened(page, "gpt-clipped", step=10)

    before = read_run(logdir / "gpt-clipped" / "version_0").before[10]
    traces = page.traces("profile")
    kinds = {"weights", "attention", "norms", "biases"}
    assert set(traces) - {"NaN or Inf"} == kinds | {f"{kind} before" for kind in kinds}
    names = transformer()
    x, y = traces["attention before"]
    assert x == list(range(2, 2 + BLOCKS))
    seventh = [
        before[names.index(f"model.encoder.layers.7.self_attn.{name}")]
        for name in ("in_proj_weight", "out_proj.weight")
    ]
    assert y[7] == pytest.approx(np.hypot(*seventh))


def test_heatmap_is_the_fifth_stop_of_tab(page: Page) -> None:
    opened(page, "gpt")
    page.run("document.activeElement.blur()")

    stops = []
    for _ in range(5):
        ActionChains(page.browser).send_keys(Keys.TAB).perform()
        stops.append(page.run("return document.activeElement.id"))

    assert stops[-1] == "heatmap", stops


def test_arrows_go_from_one_finding_to_the_next(page: Page) -> None:
    opened(page, "gpt")
    tabs = page.browser.find_elements(By.CSS_SELECTOR, "#verdict [role=toolbar] button")
    page.run("arguments[0].focus()", tabs[0])

    ActionChains(page.browser).send_keys(Keys.ARROW_RIGHT).perform()

    assert page.run("return document.activeElement") == tabs[1]


def press(page: Page, key: str) -> None:
    """Press a key of the page, and wait for what comes of it."""
    page.run("document.body.dataset.state = 'pressed'")
    ActionChains(page.browser).send_keys(key).perform()
    page.wait_until_drawn()


def test_chart_fills_the_page_and_goes_back(page: Page) -> None:
    opened(page, "gpt")
    heatmap = page.browser.find_element(By.ID, "heatmap")
    usual = heatmap.size["height"]

    press(page, "f")
    inside = page.run(
        """
        const { clientWidth, clientHeight } = document.documentElement;
        return [clientWidth, clientHeight]"""
    )
    filled = heatmap.size
    drawn = page.run("return document.getElementById('heatmap')._fullLayout.height")
    press(page, Keys.ESCAPE)

    assert [filled["width"], filled["height"]] == inside
    assert drawn > 0.9 * inside[1]
    assert heatmap.size["height"] == usual


def test_keys_choose_findings_and_zoom(page: Page) -> None:
    opened(page, "exploded")
    first = steps_drawn(page)

    press(page, "w")
    closer = steps_drawn(page)
    press(page, "0")
    everything = steps_drawn(page)
    press(page, "j")
    press(page, "k")

    assert closer[1] - closer[0] < first[1] - first[0]
    assert everything == [-0.5, 199.5]
    assert steps_drawn(page) == first


def test_slash_goes_to_the_filter_and_letters_typed_there_are_letters(
    page: Page,
) -> None:
    opened(page, "vanishing")

    ActionChains(page.browser).send_keys("/").perform()
    page.browser.switch_to.active_element.send_keys("hidden.0")

    WebDriverWait(page.browser, PATIENCE).until(
        lambda _: rows_drawn(page)[2] == ["hidden.0"]
    )
    assert page.value("#filter") == "hidden.0"
    status_becomes(page, "")


def test_page_weighs_less_than_400_kb_before_the_chart_library(page: Page) -> None:
    page.browser.execute_cdp_cmd("Network.setCacheDisabled", {"cacheDisabled": True})
    opened(page, "gpt")

    sizes = page.run(
        """
        return performance.getEntriesByType("resource")
            .filter(({name}) => !name.includes("plotly"))
            .map(({transferSize}) => transferSize)"""
    )

    assert 20_000 < sum(sizes) < 400_000


def milliseconds(page: Page, act: str) -> float:
    """Return how long it takes from an act until everything is drawn."""
    script = f"""
        const done = arguments[0];
        const start = performance.now();
        document.body.dataset.state = "acted";
        new MutationObserver(() => {{
          if (document.body.dataset.state === "ready") done(performance.now() - start);
        }}).observe(document.body, {{ attributeFilter: ["data-state"] }});
        {act}"""
    return float(page.browser.execute_async_script(script))


@pytest.mark.slow
def test_149_tensors_are_painted_within_a_second_and_a_half(page: Page) -> None:
    def painted() -> float:
        opened(page, "gpt")
        marks = "performance.getEntriesByName('gradguard-heatmap')"
        return float(page.run(f"return {marks}[0].startTime"))

    # Others take their turns on the same cores, and no longer in each of five tries.
    assert min(painted() for _ in range(5)) < 1500


@pytest.mark.slow
@pytest.mark.parametrize(
    "act",
    [
        "document.querySelector('[data-key=scale][data-value=absolute]').click()",
        "document.querySelector('[data-kind=spike]').click()",
        "document.getElementById('reset').click()",
        "document.querySelector('[data-key=group][data-value=parameter]').click()",
    ],
    ids=["color", "finding", "reset", "rows"],
)
def test_click_is_answered_within_400_milliseconds(page: Page, act: str) -> None:
    def answered() -> float:
        opened(page, "gpt")
        return milliseconds(page, act)

    assert min(answered() for _ in range(5)) < 400
