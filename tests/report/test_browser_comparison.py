"""The report of a comparison in a real browser, from disk, on a desktop and on a phone."""

import json
from pathlib import Path

import numpy as np
import pytest
from selenium.webdriver.common.by import By

from subspace_lab.experiments.statistics import summary
from subspace_lab.studies.optimizers.figures import FIGURES, Tables
from subspace_lab.studies.optimizers.report import write_comparison_report
from tests.report.test_browser import DESKTOP, PHONE, contrast, number, show
from tests.studies.optimizers.test_figures import tables

pytestmark = pytest.mark.browser

EVIL = "<b onmouseover=hacked=1>walk</b> & $x^2$"
METHODS = {
    EVIL: (2.0, 1e6),
    "galore": (2.4, 2e6),
    "adamw": (1.9, 9e6),
    "a_method_with_a_rather_long_name:rank=16": (3, 3e6),
}
SETTINGS = {
    "config": {"preset": "llama-2m", "model": None, "data": "stdlib", "steps": 150, "precision": "float32"},
}
ENVIRONMENT = {"processor": "a processor", "platform": "Linux"}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Four methods, of which one diverged at one learning rate, and one cell that was killed."""
    made = tables(METHODS)
    results = made.results.copy()
    lost = (results["method"] == "galore") & (results["lr"] == 0.001)
    results.loc[lost, ["status", "reason"]] = ["diverged", "at step 3: loss nan, gradient norm nan"]
    results.loc[lost, ["eval_loss", "train_loss", "step_s", "state_bytes"]] = np.nan
    return write_comparison_report(
        tmp_path_factory.mktemp("comparison"),
        SETTINGS,
        ENVIRONMENT,
        Tables(results, made.curves, summary(results)),
    )


def column(browser, section, name):
    """What stands in a column of the table of a section, and its button."""
    buttons = browser.find_elements(By.CSS_SELECTOR, f"#{section} thead button")
    position = [button.text for button in buttons].index(name)
    script = "return [...document.querySelectorAll(arguments[0])].map(row => row.cells[arguments[1]].innerText)"
    return lambda: browser.execute_script(script, f"#{section} tbody tr", position), buttons[position]


def test_it_renders_with_no_console_message_and_fetches_nothing(browser, report):
    browser.get("about:blank")
    browser.get_log("browser"), browser.get_log("performance")
    show(browser, report)
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    fetched = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert [url for url in fetched if not url.startswith("data:")] == [Path(report).as_uri()]


def test_names_are_text(browser, report):
    show(browser, report)
    assert browser.find_elements(By.CSS_SELECTOR, "main b") == []
    texts, _ = column(browser, "methods", "method")
    assert set(texts()) == set(METHODS)


@pytest.mark.parametrize("name", ["held-out", "state [MB]", "gap"])
def test_methods_are_sorted_by_the_first_number_of_a_column(browser, report, name):
    """Spreads and intervals follow the number, and what is not known comes last in both orders."""
    show(browser, report)
    texts, button = column(browser, "methods", name)
    for reverse in (False, True):
        button.click()
        known = [text for text in texts() if text != "-"]
        values = [number(text.split()[0].lstrip("+")) for text in known]
        assert values == sorted(values, reverse=reverse)
        assert texts()[: len(known)] == known


def test_each_table_is_sorted_by_itself(browser, report):
    show(browser, report)
    methods, _ = column(browser, "methods", "method")
    before = methods()
    texts, button = column(browser, "cells", "held-out")
    button.click()
    known = [text for text in texts() if text != "-"]
    assert len(known) == 21
    assert known == sorted(known, key=number)
    assert texts()[21:] == ["-"] * 3  # those that diverged
    assert methods() == before


def test_cells_that_did_not_end_are_there_with_their_reason(browser, report):
    show(browser, report)
    reasons, _ = column(browser, "cells", "reason")
    assert reasons().count("at step 3: loss nan, gradient norm nan") == 3
    facts = browser.find_element(By.CSS_SELECTOR, "dl.facts").text
    assert "21 of 24 complete" in facts


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_the_page_does_not_scroll_sideways(browser, report, width):
    show(browser, report, width=width)
    for details in browser.find_elements(By.TAG_NAME, "summary"):
        details.click()
    content, visible = browser.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert content == visible <= width
    for box in browser.find_elements(By.CSS_SELECTOR, ".scroll"):
        assert 0 <= box.rect["x"] < box.rect["x"] + box.rect["width"] <= width
        assert browser.find_element(By.ID, box.get_attribute("aria-labelledby")).text in {"Methods", "Trials"}


@pytest.mark.parametrize(("width", "shown"), [(PHONE, "narrow"), (DESKTOP, "wide")])
def test_figures_fit_their_screen(browser, report, width, shown):
    show(browser, report, width=width)
    drawn = [svg for svg in browser.find_elements(By.TAG_NAME, "svg") if svg.is_displayed()]
    assert len(drawn) == len(browser.find_elements(By.CSS_SELECTOR, f".{shown} svg")) == len(FIGURES)
    for svg in drawn:
        assert 0 <= svg.rect["x"] < svg.rect["x"] + svg.rect["width"] <= width


def test_dark_and_light_are_legible(browser, report):
    script = """
        const of = (selector, property) => getComputedStyle(document.querySelector(selector))[property];
        return [of('body', 'backgroundColor'), of('body', 'color'), of('.wide svg text', 'fill'),
                of('tbody td', 'color')];
    """
    for dark in (False, True):
        show(browser, report, dark=dark)
        background, *inks = browser.execute_script(script)
        assert all(contrast(background, ink) > 7 for ink in inks)
