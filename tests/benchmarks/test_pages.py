"""The measurements in the pages are those of the files that are named beside them."""

from __future__ import annotations

import pytest

from benchmarks.pages import (
    DEPARTURES,
    DEPARTURES_PAGE,
    MARK,
    PAGES,
    read,
    render,
    render_departures,
    table_of,
)
from subspace_lab.report.pages import fill
from tests.docs.pages import ROOT


@pytest.mark.parametrize("page", PAGES)
def test_pages_show_the_results(page: str) -> None:
    """If this fails, results were measured again: make pages"""
    text = (ROOT / page).read_text(encoding="utf-8")
    assert fill(text, MARK, table_of(page)) == text


def test_the_departures_of_released_code_are_those_measured() -> None:
    """If this fails, they were measured again: make pages"""
    text = (ROOT / DEPARTURES_PAGE).read_text(encoding="utf-8")
    assert fill(text, DEPARTURES, render_departures(read()["released_code"])) == text


def test_every_result_is_on_a_page() -> None:
    assert sorted(["released_code", *(name for names in PAGES.values() for name in names)]) == sorted(read())


def test_render_departures() -> None:
    rows = [
        {"code": "a", "does": "x", "here": "none", "departs": {"wide": 0.0123, "tall": 2.0, "square": 0.5}},
        {"code": "a", "does": "y", "here": "z", "departs": {"wide": 0.151}},
        {"code": "b", "does": "w", "here": "", "departs": {}},
    ]
    assert render_departures({"results": {"departures": rows}}).splitlines()[2:] == [
        "| a | x | 0.012 to 2 | none |",
        "|  | y | 0.15 | z |",
        "| b | w |  |  |",
    ]


def test_render() -> None:
    results = {
        "angles": {
            "load_average_before": 0.25,
            "results": {"speed": {"ratio": 4.5, "ratio_lower_quartile": 4.0, "ratio_upper_quartile": 5.0}},
            "targets": {
                "times faster": {"measured": 4.5, "wanted": ">= 5", "met": False},
                "error": {"measured": 1e-9, "wanted": "<= 1e-6", "met": True},
            },
        }
    }
    *_, first, second = render(results).splitlines()
    assert first == (
        "| principal angles, 512 × 128, float64: times faster | 4.5 (4 to 5) | >= 5 (missed) | 0.2 "
        "| [angles.json](results/benchmarks/angles.json) |"
    )
    assert "| 1e-09 | <= 1e-6 | 0.2 |" in second
