"""The report in a real browser, from disk, on a desktop and on a phone."""

import json
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

pytestmark = pytest.mark.browser

DESKTOP, PHONE = 1280, 390


def show(browser, report, *, width=DESKTOP, dark=False):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
    browser.get(Path(report).as_uri())


def column(browser, name):
    """Number of a column, and its button."""
    buttons = browser.find_elements(By.CSS_SELECTOR, "table.sortable thead button")
    names = [button.text for button in buttons]
    return names.index(name), buttons[names.index(name)]


def cells(browser, position):
    script = (
        "return [...document.querySelectorAll('table.sortable tbody tr')].map(row => row.cells[arguments[0]].innerText)"
    )
    return browser.execute_script(script, position)


def number(text):
    return float(text.replace("−", "-"))


@pytest.mark.parametrize("case", ["llama", "markup", "stats"])
def test_it_renders_with_no_console_message_and_fetches_nothing(browser, reports, case):
    browser.get("about:blank")
    browser.get_log("browser"), browser.get_log("performance")
    show(browser, reports(case))
    column(browser, "kind")[1].click()
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    fetched = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert [url for url in fetched if not url.startswith("data:")] == [Path(reports(case)).as_uri()]


def test_sorting_by_a_number(browser, reports):
    show(browser, reports("llama"))
    position, button = column(browser, "trend")
    before = cells(browser, position)
    button.click()
    ascending = cells(browser, position)
    assert ascending == sorted(before, key=number) != before
    button.click()
    assert [number(text) for text in cells(browser, position)] == sorted(map(number, before), reverse=True)
    headings = browser.find_elements(By.CSS_SELECTOR, "table.sortable th[scope=col]")
    states = [heading.get_attribute("aria-sort") for heading in headings]
    assert states == ["descending" if index == position else "none" for index in range(len(headings))]


def test_rows_stay_whole_and_equal_values_keep_their_order(browser, reports):
    show(browser, reports("llama"))
    rows = list(zip(*(cells(browser, position) for position in range(11)), strict=True))
    column(browser, "depth")[1].click()
    column(browser, "kind")[1].click()
    after = list(zip(*(cells(browser, position) for position in range(11)), strict=True))
    assert after == sorted(rows, key=lambda row: (row[2], int(row[1])))


def test_numbers_are_sorted_as_numbers_and_names_in_their_natural_order(browser, tmp_path):
    show(browser, long_report(tmp_path))
    position, button = column(browser, "depth")
    button.click()
    assert cells(browser, position) == [str(depth) for depth in range(12)]
    position, button = column(browser, "layer")
    button.click()
    button.click()
    assert cells(browser, position) == [f"blocks.{depth}.weight" for depth in reversed(range(12))]


def test_unknown_values_come_last_in_both_orders(browser, tmp_path):
    show(browser, long_report(tmp_path))
    position, button = column(browser, "energy")
    for _ in range(2):
        button.click()
        assert cells(browser, position)[-1] == "–"
        assert "–" not in cells(browser, position)[:-1]


def long_report(tmp_path):
    """Twelve blocks, the layer of block 5 without a finite gradient."""
    import numpy as np

    from subspace_lab.report import write_report
    from subspace_lab.runs import Run
    from tests.figures.synthetic import layer_row, make_run

    layers = [layer_row(f"blocks.{depth}.weight", depth, "weight", (16, 16)) for depth in range(12)]
    run = make_run(tmp_path / "run", layers=layers, steps=(0, 10, 20))
    energy = run.table("energy")
    energy.loc[energy["depth"] == 5, ["ratio", "fraction"]] = np.nan
    Run.open(run.path, write=True).write_table("energy", energy)
    return write_report(run)


def test_sorting_works_from_the_keyboard(browser, reports):
    show(browser, reports("llama"))
    position, button = column(browser, "stable rank")
    button.send_keys(Keys.ENTER)
    values = [number(text) for text in cells(browser, position)]
    assert values == sorted(values)
    button.send_keys(Keys.SPACE)
    assert [number(text) for text in cells(browser, position)] == sorted(values, reverse=True)


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
@pytest.mark.parametrize("case", ["llama", "markup", "no depth"])
def test_the_page_does_not_scroll_sideways(browser, reports, case, width):
    show(browser, reports(case), width=width)
    for details in browser.find_elements(By.TAG_NAME, "summary"):
        details.click()
    script = "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    content, visible = browser.execute_script(script)
    assert content == visible <= width
    (box,) = browser.find_elements(By.CSS_SELECTOR, ".scroll")
    assert 0 <= box.rect["x"] < box.rect["x"] + box.rect["width"] <= width


@pytest.mark.parametrize(("width", "shown", "smallest"), [(PHONE, "narrow", 8.5), (DESKTOP, "wide", 11)])
@pytest.mark.parametrize("case", ["llama", "no depth"])
def test_figures_fit_their_screen_and_their_text_is_whole_and_legible(browser, reports, case, width, shown, smallest):
    show(browser, reports(case), width=width)
    drawn = [svg for svg in browser.find_elements(By.TAG_NAME, "svg") if svg.is_displayed()]
    assert len(drawn) == len(browser.find_elements(By.CSS_SELECTOR, f".{shown} svg"))
    script = """
        const scale = arguments[0].getBoundingClientRect().width / arguments[0].viewBox.baseVal.width;
        const box = arguments[0].getBoundingClientRect();
        return [...arguments[0].querySelectorAll('text')].map(text => {
            const own = text.getBoundingClientRect();
            const across = Math.max(box.left - own.left, own.right - box.right);
            const out = Math.max(across, box.top - own.top, own.bottom - box.bottom);
            return [text.textContent, out, parseFloat(getComputedStyle(text).fontSize) * scale];
        });
    """
    for svg in drawn:
        for text, outside, size in browser.execute_script(script, svg):
            assert outside < 3, f"{text!r} is cut off by {outside:.1f} pixels"
            assert size >= smallest, f"{text!r} is {size:.1f} pixels high"


def test_markup_in_names_is_not_interpreted(browser, reports, cases):
    show(browser, reports("markup"))
    assert browser.execute_script("return window.hacked") is None
    assert browser.find_elements(By.CSS_SELECTOR, "main b, main i, main script") == []
    assert cells(browser, 0) == [layer["name"] for layer in cases("markup").manifest["layers"]]
    titles = browser.execute_script(
        "return [...document.querySelectorAll('.wide svg text')].map(text => text.textContent)"
    )
    assert {"<b>bold</b>", "$x^2$", "unbalanced $"} <= set(titles)


COLOURS = """
    const of = (selector, property) => getComputedStyle(document.querySelector(selector))[property];
    return [of('body', 'backgroundColor'), of('body', 'color'), of('.wide svg text', 'fill'),
            of('#energy_over_training .wide [style*="--colour-0"]', 'fill')];
"""


def luminance(colour):
    """Relative luminance of ``rgb(r, g, b)`` (WCAG 2)."""
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first, second):
    darker, lighter = sorted((luminance(first), luminance(second)))
    return (lighter + 0.05) / (darker + 0.05)


def test_dark_and_light_differ_in_every_colour_and_are_legible(browser, reports):
    show(browser, reports("llama"))
    light = browser.execute_script(COLOURS)
    show(browser, reports("llama"), dark=True)
    dark = browser.execute_script(COLOURS)
    assert all(first != second for first, second in zip(light, dark, strict=True))
    for background, text, label, line in (light, dark):
        assert contrast(background, text) > 7
        assert contrast(background, label) > 7
        assert contrast(background, line) > 3
    assert luminance(light[0]) > 0.9
    assert luminance(dark[0]) < 0.05


@pytest.mark.parametrize("dark", [False, True])
def test_the_toggle_switches_there_and_back(browser, reports, dark):
    show(browser, reports("llama"), dark=dark)
    toggle = browser.find_element(By.ID, "theme")
    system, label = browser.execute_script(COLOURS), toggle.text
    toggle.click()
    switched = browser.execute_script(COLOURS)
    assert all(first != second for first, second in zip(system, switched, strict=True))
    assert toggle.text != label
    toggle.click()
    assert browser.execute_script(COLOURS) == system
    assert toggle.text == label
