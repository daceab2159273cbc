"""The Gradients page in a real browser, driven by hand."""

import json
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from tests.support.board import Board

PATIENCE = 60  # seconds
OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,1400",
)

# What TensorBoard's own page says in every browser without a graphics card.
TENSORBOARDS_OWN = ("instances of Three.js", "software WebGL", "GL Driver Message")


class Page:
    """The page inside TensorBoard, driven by hand."""

    def __init__(self, browser: webdriver.Chrome, board: Board, shots: Path) -> None:
        self.browser = browser
        self.board = board
        self._shots = shots

    def open(self, *, dark: bool = False, **view: Any) -> None:
        """Open the page by a link."""
        link = quote(urlencode(view, doseq=True))
        self.browser.get("about:blank")
        self.browser.get(
            f"{self.board.url}{'?darkMode=true' if dark else ''}"
            f"#gradguard&p.gradguard.view={link}"
        )
        self.wait_until_drawn()

    def wait_until_drawn(self) -> None:
        """Wait until nothing is left to draw, and stay inside the page."""
        WebDriverWait(self.browser, PATIENCE, 0.1).until(lambda _: self._is_drawn())

    def _is_drawn(self) -> bool:
        self.browser.switch_to.default_content()
        for frame in self.browser.find_elements(By.TAG_NAME, "iframe"):
            self.browser.switch_to.frame(frame)
            if self.run("return document.body?.dataset.state") == "ready":
                return True
            self.browser.switch_to.default_content()
        return False

    def run(self, script: str, *arguments: Any) -> Any:
        """Run JavaScript inside the page."""
        return self.browser.execute_script(script, *arguments)

    def traces(self, panel: str) -> dict[str, Any]:
        """Return what a line chart shows, x and y by name."""
        script = """
            return JSON.stringify(document.getElementById(arguments[0]).data.map(
                ({name, x, y}) => [name, [Array.from(x), Array.from(y)]]))"""
        return dict(json.loads(self.run(script, panel)))

    def title(self, panel: str) -> str:
        """Return the title of a chart; of a strip, what stands in its margin."""
        script = """
            const { layout } = document.getElementById(arguments[0]);
            return layout.title?.text ?? layout.annotations[0].text"""
        return str(self.run(script, panel))

    def press(self, *, row: int, step: int) -> None:
        """Click a cell of the heatmap, whatever comes of it."""
        self._at(row, step).click().perform()

    def click(self, *, row: int, step: int) -> None:
        """Click a cell of the heatmap, and wait until it is selected."""
        self.press(row=row, step=step)
        self.run("document.body.dataset.state = 'clicked'")
        self.wait_until_drawn()

    def drag(self, start: tuple[int, int], stop: tuple[int, int]) -> None:
        """Drag from one (row, step) of the heatmap to another."""
        self.run("document.body.dataset.state = 'dragged'")
        self._at(*start).click_and_hold().perform()
        self._at(*stop).release().perform()
        self.wait_until_drawn()

    def point(self, *, row: int, step: int) -> None:
        """Hold the pointer over a cell of the heatmap."""
        self._at(row, step).perform()

    def double_click(self, *, row: int, step: int) -> None:
        """Click a cell of the heatmap twice."""
        self.run("document.body.dataset.state = 'clicked'")
        self._at(row, step).double_click().perform()
        self.wait_until_drawn()

    def type_step(self, step: int) -> None:
        """Type a step into its field."""
        box = self.browser.find_element(By.ID, "step")
        box.send_keys(Keys.CONTROL, "a")
        self.run("document.body.dataset.state = 'typed'")
        box.send_keys(str(step), Keys.ENTER)
        self.wait_until_drawn()

    def _at(self, row: int, step: int) -> ActionChains:
        x, y = self.run(
            """
            const {xaxis, yaxis} = document.getElementById("heatmap")._fullLayout;
            const box = document.querySelector("#heatmap .nsewdrag").getBoundingClientRect();
            const frame = window.frameElement.getBoundingClientRect();
            return [frame.x + box.x + xaxis.l2p(arguments[1]),
                    frame.y + box.y + yaxis.l2p(arguments[0])]""",
            row,
            step,
        )
        hand = ActionChains(self.browser, duration=0)
        pointer = hand.w3c_actions.pointer_action
        pointer.move_to_location(round(x), round(y))  # type: ignore[no-untyped-call]  # selenium
        return hand

    def choose(self, key: str, value: str) -> None:
        """Press a button over the heatmap."""
        self.run("document.body.dataset.state = 'chosen'")
        button = f"[data-key='{key}'][data-value='{value}']"
        self.browser.find_element(By.CSS_SELECTOR, button).click()
        self.wait_until_drawn()

    def chosen(self, key: str) -> str:
        """Return which button of some over the heatmap is pressed."""
        script = """
            const pressed = `[data-key=${arguments[0]}][aria-pressed=true]`;
            return document.querySelector(pressed).dataset.value"""
        return str(self.run(script, key))

    def resize(self, width: int, height: int) -> None:
        """Make what is seen so large, whatever the browser's own frame takes."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1}
        metrics = size | {"mobile": False}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def value(self, selector: str) -> str:
        """Return what a control of the page is set to."""
        return str(
            self.run("return document.querySelector(arguments[0]).value", selector)
        )

    def shoot(self, name: str) -> None:
        """Keep a picture of what the browser shows."""
        self.browser.switch_to.default_content()
        self.browser.save_screenshot(self._shots / f"{name}.png")
        self.wait_until_drawn()

    def complaints(self) -> list[str]:
        """Return what the browser's console says against the page."""
        entries = self.browser.get_log("browser")  # type: ignore[no-untyped-call]  # selenium
        return [
            entry["message"]
            for entry in entries
            if not any(text in entry["message"] for text in TENSORBOARDS_OWN)
        ]


def chromium(profile: Path) -> webdriver.Chrome | None:
    """Return Debian's Chromium; None where it is not installed."""
    driver, program = shutil.which("chromedriver"), shutil.which("chromium")
    if not (driver and program):
        return None
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for option in (*OPTIONS, f"--user-data-dir={profile}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options, webdriver.ChromeService(driver))


def rows_drawn(page: Page) -> tuple[int, list[float], list[str]]:
    """Return how many rows of cells there are, the axis they lie on, and their labels."""
    script = """
        const {data, _fullLayout} = document.getElementById("heatmap");
        return [data[0].z.length, _fullLayout.yaxis.range, _fullLayout.yaxis.ticktext]"""
    count, axis, labels = page.run(script)
    return count, axis, labels


def steps_drawn(page: Page) -> list[float]:
    """Return from where to where the heatmap's step axis goes."""
    axis = "return document.getElementById('heatmap')._fullLayout.xaxis.range"
    return list(page.run(axis))


def opacity(page: Page, panel: str) -> float:
    element = page.browser.find_element(By.ID, panel)
    return float(element.value_of_css_property("opacity"))


def verdict(page: Page) -> str:
    """Return what the band at the top says."""
    return page.browser.find_element(By.ID, "verdict").text


def status_becomes(page: Page, text: str) -> None:
    """Wait until the page says so; "" for nothing."""
    script = "return document.getElementById('status').textContent"
    WebDriverWait(page.browser, PATIENCE, 0.1).until(lambda _: page.run(script) == text)
