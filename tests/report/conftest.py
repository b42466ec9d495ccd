"""The runs of the figures' tests, their reports, and a browser to open them in."""

import shutil

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from subspace_lab.report import write_report
from tests.figures.conftest import cases

__all__ = ["browser", "cases", "reports"]

OPTIONS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def reports(cases):
    """Writes the report of a case once, and gives its path."""
    written = {}

    def report(name):
        if name not in written:
            written[name] = write_report(cases(name))
        return written[name]

    return report


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.fail("the report is tested in Chromium; install it: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for option in (*OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(chromedriver))
    yield driver
    driver.quit()
