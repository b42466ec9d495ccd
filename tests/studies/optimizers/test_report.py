"""The report of a comparison: all of it there, nothing fetched, nothing executed."""

import re

import pytest

from subspace_lab.studies.optimizers import Comparison
from subspace_lab.studies.optimizers.figures import Tables
from subspace_lab.studies.optimizers.report import write_comparison_report


@pytest.fixture
def page(finished):
    return (finished.path / "report.html").read_text(encoding="utf-8")


def test_every_cell_and_every_method_is_in_it(page, finished):
    for cell, reason in zip(finished.results["cell"], finished.results["reason"], strict=True):
        assert f'<th scope="row">{cell}</th>' in page
        assert reason in page
    rows = re.findall(r'<th scope="row">(\w+)</th>', page)
    assert [name for name in rows if "_" not in name] == finished.table["method"].tolist()
    for title in ("Loss over steps", "Loss over wall time", "Loss by optimizer state"):
        assert title in page
    assert "<dd>4 of 8 complete</dd>" in page
    assert "2 methods, 2 learning rates, 2 seeds" in page


def test_numbers_are_sorted_as_numbers(page, finished):
    first = finished.table.loc[0]
    assert f'data-value="{first["eval_loss"]:.3f}">{first["eval_loss"]:.3f} ±' in page
    assert 'data-value="">-<' in page  # unknown ones go last


def test_it_fetches_nothing(page):
    assert not re.search(r'(?:src|href)="(?!#|data:)', page)
    assert page.count("<script>") == 1
    assert "<svg" in page


def test_names_are_text(finished, tmp_path):
    evil = "<script>alert(1)</script>"
    renamed = [table.replace({"method": {"adamw": evil}}) for table in (finished.results, finished.table)]
    curves = finished.curves.assign(method=finished.curves["method"].astype(str).replace("adamw", evil))
    manifest = finished.manifest
    tables = Tables(renamed[0], curves, renamed[1])
    write_comparison_report(tmp_path, manifest["settings"], manifest["environment"], tables)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert evil not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_it_is_written_again_the_same(finished, page):
    Comparison.open(finished.path).draw()
    assert (finished.path / "report.html").read_text(encoding="utf-8") == page
