"""The committed page and tables against each other: what is shown is what the rows of the trainings give."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from subspace_lab.experiments.study import draw
from subspace_lab.runs import RunError
from subspace_lab.runs.tables import read_table
from subspace_lab.studies.grass_paper import captured_tables, page
from subspace_lab.studies.grass_paper.out_dir import PAPER, open_store
from subspace_lab.studies.grass_paper.profiles import PROFILES
from subspace_lab.studies.grass_paper.quantities import QUANTITIES, ackley
from subspace_lab.studies.grass_paper.quantity import PaperStore
from subspace_lab.studies.grass_paper.study import study_of
from tests.studies.grass_paper.by_hand import Tables

ROOT = Path(__file__).parents[3]
FIGURES, RESULTS = ROOT / "figures", ROOT / "results" / "grass_paper"
COLUMNS = {
    **PAPER.schemas, **captured_tables.COLUMNS, **{name: quantity.columns for name, quantity in QUANTITIES.items()},
}  # fmt: skip
FILES = {path.stem: path for path in [*RESULTS.glob("*.parquet"), *(RESULTS / "tables").glob("*.parquet")]}
OF_METHODS = ("tables", "larger")
DERIVED = [name for name in QUANTITIES if name in FILES and name not in {*OF_METHODS, "ackley"}]


@pytest.fixture(scope="module")
def store() -> PaperStore:
    return open_store(RESULTS, PROFILES["cpu"])


def same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    """Equal but for the last digits, in which sums differ between processors."""
    pd.testing.assert_frame_equal(one.reset_index(drop=True), other.reset_index(drop=True), rtol=1e-6)


def test_the_page_is_what_its_tables_give(store: PaperStore, tmp_path: Path) -> None:
    """It lies beside the figures, as it does here; the command of its first line writes it again."""
    (tmp_path / "docs").mkdir()
    for name in ("figures", "results"):
        (tmp_path / name).symlink_to(ROOT / name)
    copy = open_store(tmp_path / "results" / "grass_paper", PROFILES["cpu"])
    page.write(copy, tmp_path / "docs" / "evidence.md", tmp_path / "figures")
    written = (tmp_path / "docs" / "evidence.md").read_bytes()
    committed = (ROOT / "docs" / "evidence.md").read_bytes()
    assert written.decode().splitlines() == committed.decode().splitlines()
    assert written == committed


@pytest.mark.parametrize("name", DERIVED)
def test_a_table_is_what_those_before_it_give(name: str, store: PaperStore) -> None:
    same(QUANTITIES[name].measure(store), store.read(name))


@pytest.mark.parametrize("name", [name for name in OF_METHODS if name in FILES])
def test_a_table_of_methods_is_what_the_trainings_give(name: str, store: PaperStore, tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    same(QUANTITIES[name].measure(Tables(store.profile, tmp_path, results=store.results)), store.read(name))
    same(*(pd.read_csv(path / "tables" / f"{name}.csv") for path in (tmp_path, RESULTS)))
    tex = [(path / "tables" / f"{name}.tex").read_text(encoding="utf-8") for path in (tmp_path, RESULTS)]
    assert tex[0] == tex[1]


def test_a_claim_whose_table_is_not_there_is_not_measured(tmp_path: Path) -> None:
    """Some of its trainings may be there, of other quantities: a verdict on a part of its statements would mislead."""
    shutil.copytree(RESULTS, tmp_path / "copy")
    copy = open_store(tmp_path / "copy", PROFILES["cpu"])
    copy.remove("tables")
    page.write(copy, tmp_path / "page.md", FIGURES)
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "| W6 | *not measured yet* | 0 of 0 |" in text
    assert "Not measured yet: tables, larger, refresh." in text
    assert "| W1 | *not measured yet* |" not in text


def test_descents_on_ackleys_function_begin_as_the_committed_ones(store: PaperStore) -> None:
    """The first ten steps of one seed at the published scales; later ones depend on the processor's rounding."""
    found = ackley.descents(scales=(1.0, 3.0), num_seeds=1, steps=10)
    table = store.read("ackley")
    assert sorted(set(table["scale"])) == list(ackley.SCALES) == [0.3, 1.0, 3.0, 10.0]
    assert (table.groupby(["method", "scale"])["seed"].nunique() == 8).all()
    assert table["step"].max() == 100
    chosen = table[(table["seed"] == 0) & (table["step"] <= 10) & table["scale"].isin([1.0, 3.0])]
    pd.testing.assert_frame_equal(found, chosen.reset_index(drop=True), rtol=1e-4)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_table_of_another_schema_is_refused_by_file_and_column(name: str, tmp_path: Path) -> None:
    """Every column is declared as what it is: taken away, or of another kind, it is named."""
    (tmp_path / "tables").mkdir()
    (tmp_path / PAPER.manifest).write_bytes((RESULTS / PAPER.manifest).read_bytes())
    path = tmp_path / FILES[name].relative_to(RESULTS)
    table = read_table(FILES[name], "", COLUMNS[name]).head(3)
    assert set(COLUMNS[name]) == set(table.columns)
    for column, dtype in COLUMNS[name].items():
        table.drop(columns=column).to_parquet(path, index=False)
        with pytest.raises(RunError, match=rf"{path.name} has no column '{column}'; .*remove it"):
            open_store(tmp_path, PROFILES["cpu"]).read(name, COLUMNS[name])
        table.assign(**{column: 1.5 if dtype in {"str", "category"} else "x"}).to_parquet(path, index=False)
        with pytest.raises(RunError, match=rf"{path.name} has something else than .* '{column}'; .*remove it"):
            open_store(tmp_path, PROFILES["cpu"]).read(name, COLUMNS[name])


@pytest.mark.parametrize(
    ("name", "column", "value"), [("projection_angles", "bin_low", float("nan")), ("ackley", "value", float("nan"))]
)
def test_values_that_cannot_be_drawn_are_one_line(tmp_path: Path, name: str, column: str, value: object) -> None:
    shutil.copytree(RESULTS, tmp_path / "copy")
    copy = open_store(tmp_path / "copy", PROFILES["cpu"])
    copy.write(name, copy.read(name).assign(**{column: value}))
    with pytest.raises(RunError, match=rf"{name}\.parquet cannot be drawn \([^\n]*\); remove it[^\n]*$"):
        draw(study_of(copy.profile), copy, [name])
