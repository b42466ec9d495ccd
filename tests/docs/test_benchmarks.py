"""The measurements in the pages are those of the files that are named beside them."""

from __future__ import annotations

import configparser
import re
from types import ModuleType

import pytest

from tests.docs.pages import ROOT, script

README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def benchmarks() -> ModuleType:
    return script("benchmarks")


@pytest.mark.parametrize("page", ["README.md", "docs/concepts/optimizers.md", "docs/how-to/compare-optimizers.md"])
def test_pages_show_the_results(page: str, benchmarks: ModuleType) -> None:
    """If this fails, results were measured again: python docs/benchmarks.py"""
    assert benchmarks.table_of(page) in (ROOT / page).read_text(encoding="utf-8")


def test_every_result_is_on_a_page(benchmarks: ModuleType) -> None:
    assert sorted(name for names in benchmarks.PAGES.values() for name in names) == sorted(benchmarks.read())


def test_render(benchmarks: ModuleType) -> None:
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
    *_, first, second = benchmarks.render(results).splitlines()
    assert first == (
        "| principal angles, 512 × 128, float64: times faster | 4.5 (4 to 5) | >= 5 (missed) | 0.2 "
        "| [angles.json](benchmarks/results/angles.json) |"
    )
    assert "| 1e-09 | <= 1e-6 | 0.2 |" in second


def test_readme_names_the_oldest_versions() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    torch = re.search(r"^torch>=(.*)$", setup["options"]["install_requires"], re.MULTILINE)
    assert torch
    pages = (README, (ROOT / "docs" / "getting-started.md").read_text(encoding="utf-8"))
    for page in pages:
        assert f"torch {torch[1]} or newer" in page
        assert f"Python {setup['options']['python_requires'].removeprefix('>=')} or newer" in page


def test_readme_names_the_extras() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert set(re.findall(r"'\.\[(\w+)\]'", README)) == set(setup["options.extras_require"])
