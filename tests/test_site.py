"""The site that `make docs` builds: complete, without a network, and good to look at."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from gradguard.cli import app
from tests.support import ROOT
from tests.support.browser import chromium
from tests.support.documents import pages

pytestmark = pytest.mark.slow

# What a browser fetches by itself, in pages and in style sheets; links wait for a click.
FETCHED = re.compile(
    r"<(?:script|img|iframe|source)[^>]*\bsrc=[\"']?((?:https?:)?//[^\"'> ]+)"
    r"|<link(?![^>]*rel=[\"']?canonical)[^>]*\bhref=[\"']?((?:https?:)?//[^\"'> ]+)"
    r"|(?:@import|url\()\s*[\"']?((?:https?:)?//[^\"')]+)"
)

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # a group

SHOWN = {"index": "My loss is NaN", "health": "exploded", "findings/exploded": "Rule"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build as `make docs` does, elsewhere."""
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    with chromium() as driven:
        yield driven


@pytest.fixture(scope="module")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pictures go: a folder that CI names and keeps, or a temporary one."""
    named = os.environ.get("GRADGUARD_SCREENSHOTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_every_page_is_built(site: Path) -> None:
    built = {str(file.relative_to(site)) for file in site.rglob("*.html")}

    assert built == {page.replace(".md", ".html") for page in pages()} | {"404.html"}


def test_no_page_fetches_anything_from_elsewhere(site: Path) -> None:
    files = [*site.rglob("*.html"), *site.rglob("*.css")]

    fetched = {
        match[0] for file in files for match in FETCHED.finditer(file.read_text())
    }

    assert fetched == set()


def test_no_code_is_left_unrendered(site: Path) -> None:
    for file in site.rglob("*.html"):
        text = re.sub(
            r"<pre.*?</pre>|<code.*?</code>", "", file.read_text(), flags=re.S
        )
        assert not re.search(r"```|--8<--|:::|\|---|&gt;&gt;&gt;", text), file


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_is_in_the_reference(name: str, site: Path) -> None:
    text = (site / "cli.html").read_text()
    section = text.split(f'id="gradguard-{name}"')[1].split("<h3")[0]

    flags = {flag for param in COMMANDS[name].params for flag in param.opts}

    assert {flag for flag in flags if flag[0] == "-" and flag not in section} == set()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("page", SHOWN)
def test_page_fits_and_has_no_complaints(
    page: str,
    width: int,
    dark: bool,
    site: Path,
    browser: webdriver.Chrome,
    shots: Path,
) -> None:
    browse(browser, site / f"{page}.html", width=width, dark=dark)

    browser.save_screenshot(
        shots
        / f"site-{page.replace('/', '-')}-{width}-{'dark' if dark else 'light'}.png"
    )
    assert SHOWN[page] in browser.find_element(By.TAG_NAME, "article").text
    wide = "return document.documentElement.scrollWidth - innerWidth"
    assert browser.execute_script(wide) <= 0
    assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]  # selenium


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_links_stand_out_from_the_page(
    dark: bool, site: Path, browser: webdriver.Chrome
) -> None:
    browse(browser, site / "index.html", width=1280, dark=dark)

    link = browser.find_element(By.CSS_SELECTOR, "article td a")
    page = browser.find_element(By.TAG_NAME, "body")
    lights = [
        luminance(link.value_of_css_property("color")),
        luminance(page.value_of_css_property("background-color")),
    ]

    assert (max(lights) + 0.05) / (min(lights) + 0.05) >= 4.5  # WCAG 2.1, AA


def luminance(color: str) -> float:
    """Return the relative luminance of an `rgba(...)`, 0 to 1 (WCAG 2.1)."""
    shares = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    linear = [
        x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in shares
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_answer_is_on_the_first_screen(site: Path, browser: webdriver.Chrome) -> None:
    browse(browser, site / "index.html", width=1280, dark=False)

    command = browser.find_element(By.XPATH, "//code[contains(., 'gradguard report')]")

    assert command.rect["y"] + command.rect["height"] < 800


def test_search_answers_without_a_server(site: Path, browser: webdriver.Chrome) -> None:
    browse(browser, site / "index.html", width=1280, dark=False)

    browser.find_element(By.CSS_SELECTOR, ".md-search__input").send_keys("saturated")

    WebDriverWait(browser, 30, 0.1).until(
        lambda page: page.find_elements(
            By.CSS_SELECTOR, ".md-search-result__link[href*='collapsed']"
        )
    )


def browse(browser: webdriver.Chrome, page: Path, *, width: int, dark: bool) -> None:
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())
