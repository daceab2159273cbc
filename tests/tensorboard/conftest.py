"""A browser, and where its pictures go."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver

from tests.support.page import chromium


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """Debian's Chromium."""
    chrome = chromium(tmp_path_factory.mktemp("profile"))
    if chrome is None:
        sentence = "the page's tests need Debian's chromium and chromium-driver"
        if os.environ.get("CI"):
            pytest.fail(sentence)
        pytest.skip(sentence)
    yield chrome
    chrome.quit()


@pytest.fixture(scope="module")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pictures go: a folder that CI names and keeps, or a temporary one."""
    named = os.environ.get("GRADGUARD_SCREENSHOTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
