"""The committed page and tables against each other: what is shown is what the rows of the trainings give."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from subspace_lab.runs import RunError
from subspace_lab.runs.tables import read_table
from subspace_lab.studies.grass_paper import page
from subspace_lab.studies.grass_paper.making import _conclude
from subspace_lab.studies.grass_paper.profiles import PROFILES
from subspace_lab.studies.grass_paper.quantities import COLUMNS, QUANTITIES, ackley, methods_overview
from subspace_lab.studies.grass_paper.store import MANIFEST, Store
from tests.studies.grass_paper.by_hand import Tables

ROOT = Path(__file__).parents[3]
FIGURES = ROOT / "figures"
DERIVED = [name for name in QUANTITIES if name not in {"tables", "ackley"}]


@pytest.fixture(scope="module")
def store() -> Store:
    return Store(FIGURES, PROFILES["cpu"], COLUMNS)


def same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    """Equal but for the last digits, in which sums differ between processors."""
    pd.testing.assert_frame_equal(one.reset_index(drop=True), other.reset_index(drop=True), rtol=1e-6)


def test_the_page_is_what_its_tables_give(store: Store, tmp_path: Path) -> None:
    """It lies beside the figures, as it does here; the command of its first line writes it again."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "figures").symlink_to(FIGURES)
    page.write(Store(tmp_path / "figures", PROFILES["cpu"], COLUMNS), tmp_path / "docs" / "evidence.md")
    written = (tmp_path / "docs" / "evidence.md").read_bytes()
    committed = (ROOT / "docs" / "evidence.md").read_bytes()
    assert written.decode().splitlines() == committed.decode().splitlines()
    assert written == committed


@pytest.mark.parametrize("name", DERIVED)
def test_a_table_is_what_those_before_it_give(name: str, store: Store) -> None:
    same(QUANTITIES[name].measure(store), store.read(name))


def test_the_table_of_methods_is_what_the_trainings_give(store: Store, tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    same(methods_overview.measure(Tables(store.profile, tmp_path, cells=store.read("cells"))), store.read("tables"))  # type: ignore[arg-type]
    same(*(pd.read_csv(path / "tables" / "tables.csv") for path in (tmp_path, FIGURES)))
    tex = [(path / "tables" / "tables.tex").read_text(encoding="utf-8") for path in (tmp_path, FIGURES)]
    assert tex[0] == tex[1]


def test_descents_on_ackleys_function_begin_as_the_committed_ones(store: Store) -> None:
    """The first ten steps of one seed at the published scales; later ones depend on the processor's rounding."""
    found = ackley.descents(scales=(1.0, 3.0), num_seeds=1, steps=10)
    table = store.read("ackley")
    assert sorted(set(table["scale"])) == list(ackley.SCALES) == [0.3, 1.0, 3.0, 10.0]
    assert (table.groupby(["method", "scale"])["seed"].nunique() == 8).all()
    assert table["step"].max() == 100
    chosen = table[(table["seed"] == 0) & (table["step"] <= 10) & table["scale"].isin([1.0, 3.0])]
    pd.testing.assert_frame_equal(found, chosen.reset_index(drop=True), rtol=1e-4)


@pytest.mark.parametrize("name", sorted(path.stem for path in (FIGURES / "tables").glob("*.parquet")))
def test_a_table_of_another_schema_is_refused_by_file_and_column(name: str, tmp_path: Path) -> None:
    """Every column is declared as what it is: taken away, or of another kind, it is named."""
    (tmp_path / "tables").mkdir()
    (tmp_path / MANIFEST).write_bytes((FIGURES / MANIFEST).read_bytes())
    path = tmp_path / "tables" / f"{name}.parquet"
    table = read_table(FIGURES / "tables" / path.name, "", COLUMNS[name]).head(3)
    assert set(COLUMNS[name]) == set(table.columns)
    for column, dtype in COLUMNS[name].items():
        table.drop(columns=column).to_parquet(path, index=False)
        with pytest.raises(RunError, match=rf"{path.name} has no column '{column}'; remove it"):
            Store(tmp_path, PROFILES["cpu"], COLUMNS).read(name)
        table.assign(**{column: 1.5 if dtype in {"str", "category"} else "x"}).to_parquet(path, index=False)
        with pytest.raises(RunError, match=rf"{path.name} has something else than .* '{column}'; remove it"):
            Store(tmp_path, PROFILES["cpu"], COLUMNS).read(name)


@pytest.mark.parametrize(
    ("name", "column", "value"), [("random_bases", "recovery", "unheard of"), ("ackley", "value", float("nan"))]
)
def test_values_that_cannot_be_drawn_are_one_line(tmp_path: Path, name: str, column: str, value: object) -> None:
    for file in ("evidence.json", "tables"):
        source = FIGURES / file
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / file)
    copy = Store(tmp_path, PROFILES["cpu"], COLUMNS)
    copy.write(name, copy.read(name).assign(**{column: value}))
    with pytest.raises(RunError, match=rf"{name}\.parquet cannot be drawn \([^\n]*\); remove it[^\n]*$"):
        _conclude(copy, name, again=False)
