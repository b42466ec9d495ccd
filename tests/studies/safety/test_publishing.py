"""A copy of a study's tables, and the page that is made of it."""

import json

import pandas as pd
import pytest

import subspace_lab as sl
from subspace_lab.cli.entry import app
from subspace_lab.experiments.store import Store
from subspace_lab.runs import RunError
from subspace_lab.studies.safety.figures.all import FIGURES
from subspace_lab.studies.safety.study import _TABLES, SAFETY
from tests.studies.safety import by_hand
from tests.studies.safety.studies import TINY

TABLES = ("results", "steps", "subspaces", "terms", "summary")


@pytest.fixture
def study(tmp_path):
    """Tables by hand where a study would have them."""
    root, made = tmp_path / "study", by_hand.tables(seeds=2)
    store = Store.begin(root, SAFETY, TINY.to_dict())
    store.note(cells=[{"factors": {}}], jobs=[{"name": "one"}], judges=["exact"], refused_judges={})
    for name in TABLES:
        table, kinds = getattr(made, name), _TABLES[name]
        lost = {column: "" for column, kind in kinds.items() if column not in table and kind == "str"}
        table.assign(**lost).reindex(columns=[*kinds]).astype(kinds).to_parquet(root / f"{name}.parquet")
    (root / "outcomes.parquet").write_bytes(b"a row per prompt")
    for name in ("table.csv", "table.tex"):
        (root / name).write_text(name, encoding="utf-8")
    return sl.safety.Study.open(root)


def run(*words):
    app([str(word) for word in words], exit_on_error=False, print_error=False, result_action="return_value")


def test_a_copy_has_all_tables_but_that_of_the_prompts(study, tmp_path):
    copy = sl.safety.Study.open(study.publish(tmp_path / "results" / "safety"))
    assert sorted(path.name for path in copy.path.iterdir()) == sorted([
        "study.json",
        "table.csv",
        "table.tex",
        *(f"{name}.parquet" for name in TABLES),
    ])
    for name in ("results", "summary"):
        pd.testing.assert_frame_equal(getattr(copy, name), getattr(study, name))
    assert copy.config == study.config
    assert copy.manifest["environment"] == study.manifest["environment"]
    assert json.loads((copy.path / "study.json").read_text())["jobs"] == []
    study.publish(copy.path)  # once more


def test_a_copy_has_nothing_to_verify_and_another_study_is_not_written_over(study, tmp_path):
    copy = sl.safety.Study.open(study.publish(tmp_path / "copy"))
    for act in (copy.verify, copy.draw):
        with pytest.raises(RunError, match="without its cells; do this where the study was run"):
            act()
    with pytest.raises(RunError, match="cells of its own; choose another directory"):
        study.publish(study.path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match="is not empty"):
        study.publish(tmp_path / "other")


def test_the_page_and_its_figures_are_made_of_a_copy(study, tmp_path, capsys):
    page, pictures = tmp_path / "docs" / "safety.md", tmp_path / "figures"
    page.parent.mkdir()
    run("safety", "report", study.path, "--publish", tmp_path / "copy", "--page", page, "--pictures", pictures)
    assert capsys.readouterr().out.splitlines() == [f"tables: {tmp_path / 'copy'}", f"page: {page}"]
    text = page.read_text(encoding="utf-8")
    assert "in `../copy`" in text
    assert "![Overlap of gradients](../figures/gradient_overlaps.png)" in text
    assert {path.stem for path in pictures.glob("*.png")} == {*FIGURES}
    before = {path.name: path.read_bytes() for path in pictures.iterdir()}
    run("safety", "report", tmp_path / "copy", "--page", page, "--pictures", pictures)
    assert page.read_text(encoding="utf-8") == text
    assert {path.name: path.read_bytes() for path in pictures.iterdir()} == before
    with pytest.raises(ValueError, match="give --page as well"):
        run("safety", "report", study.path, "--pictures", pictures)
