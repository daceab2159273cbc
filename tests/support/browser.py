"""Debian's Chromium, driven by a test."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from selenium import webdriver

_OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")


@contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    """Start a browser without a network; skip the test where there is none."""
    driver, binary = shutil.which("chromedriver"), shutil.which("chromium")
    if not (driver and binary):
        assert "CI" not in os.environ, "CI must have chromium and chromium-driver"
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for option in _OPTIONS:
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as browser:
        browser.execute_cdp_cmd("Network.enable", {})
        browser.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["http*"]})
        yield browser
