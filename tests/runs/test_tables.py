"""Tables on disk: a checksum, declared columns, and one line about what is neither."""

import math
import os

import numpy as np
import pandas as pd
import pytest

from subspace_lab.analysis import analyze, findings, recommend
from subspace_lab.figures.tables import load
from subspace_lab.runs import Run, RunError, RunLostError
from subspace_lab.runs.tables import TABLES, read_table, write_table
from tests.runs.build import make_run, refuses

TABLE = pd.DataFrame({
    "step": np.arange(200, dtype=np.int32),
    "layer": pd.Categorical(["a", "b"] * 100),
    "ratio": np.linspace(0, 1, 200, dtype=np.float32),
    "note": ["x", None] * 100,
})


@pytest.fixture(scope="module")
def analysed(tmp_path_factory):
    path = make_run(tmp_path_factory.mktemp("tables") / "run", steps=(0, 10, 20))
    analyze(Run.open(path, write=True), ranks=(1, 2), rank=2)
    return path


def test_it_comes_back(tmp_path):
    table = TABLE.copy()
    table.attrs["loss"] = 2.5
    write_table(tmp_path / "t.parquet", table)
    read = read_table(tmp_path / "t.parquet", "make it again")
    pd.testing.assert_frame_equal(read, table)
    assert (read.attrs, table.attrs) == ({"loss": 2.5}, {"loss": 2.5})
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "t.parquet"), table)  # as anybody reads it
    assert os.listdir(tmp_path) == ["t.parquet"]


@pytest.mark.parametrize("change", [1, 0x80, 0xFF])
def test_a_flipped_byte_changes_no_number(tmp_path, change):
    path = tmp_path / "t.parquet"
    write_table(path, TABLE)
    whole, refused = path.read_bytes(), 0
    places = range(0, len(whole), 17)
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ change]) + whole[place + 1 :])
        try:
            read = read_table(path, "make it again")
        except RunError:
            refused += 1
        else:  # a flip in the checksum's own name
            pd.testing.assert_frame_equal(read, TABLE)
    assert refused > 0.95 * len(places)


def test_what_others_wrote_without_a_checksum_is_read(tmp_path):
    TABLE.to_parquet(tmp_path / "t.parquet", index=False)
    pd.testing.assert_frame_equal(read_table(tmp_path / "t.parquet", "make it again"), TABLE)


def test_what_pandas_read_and_wrote_again_is_read(tmp_path):
    """The mark of the checksum comes along in the attributes, without one."""
    write_table(tmp_path / "t.parquet", TABLE)
    half = pd.read_parquet(tmp_path / "t.parquet").head(100)
    half.to_parquet(tmp_path / "t.parquet", index=False)
    pd.testing.assert_frame_equal(read_table(tmp_path / "t.parquet", "make it again"), half)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: path.write_bytes(b"PAR1")])
def test_what_is_no_table(analysed, tmp_path, make):
    path = tmp_path / "t.parquet"
    make(path)
    with refuses("t.parquet cannot be read", "make it again"):
        read_table(path, "make it again")


def test_more_rows_than_memory(tmp_path, monkeypatch):
    write_table(tmp_path / "t.parquet", TABLE)
    monkeypatch.setattr("subspace_lab.runs.tables._memory", lambda: 3_000)
    with refuses("says it has 200 rows, more than this machine's memory holds"):
        read_table(tmp_path / "t.parquet", "make it again")


WRONG = {
    "missing": lambda t, c: t.drop(columns=c),
    "texts": lambda t, c: t.assign(**{c: ["x"] * len(t)}) if TABLES["energy"][c] != "str" else t.assign(**{c: 3}),
    "lists": lambda t, c: t.assign(**{c: [[1]] * len(t)}),
    "null": lambda t, c: t.assign(**{c: [None] * len(t)}),
    "complex": lambda t, c: t.assign(**{c: "1j"}) if TABLES["energy"][c] != "str" else t.assign(**{c: 1.5}),
    "truth": lambda t, c: t.assign(**{c: True}),
}


@pytest.mark.parametrize("column", TABLES["energy"])
@pytest.mark.parametrize("how", WRONG)
def test_columns_of_another_kind(analysed, tmp_path, how, column):
    table = WRONG[how](Run.open(analysed).table("energy"), column)
    write_table(tmp_path / "energy.parquet", table)
    if how == "null" and TABLES["energy"][column] == "float":
        return
    with refuses("energy.parquet has", f"{column!r}", "make it again"):
        read_table(tmp_path / "energy.parquet", "make it again", TABLES["energy"])


def test_missing_values_are_numbers_only(tmp_path):
    for name, dtype, values in (("step", "int", [1.0, math.nan]), ("layer", "str", ["a", None]),
                                ("layer", "str", pd.Categorical(["a", None]))):  # fmt: skip
        write_table(tmp_path / "t.parquet", pd.DataFrame({name: values}))
        with refuses("t.parquet has something else", f"{name!r}"):
            read_table(tmp_path / "t.parquet", "make it again", {name: dtype})
    write_table(
        tmp_path / "t.parquet", pd.DataFrame({"ratio": [1.0, math.nan], "tokens": pd.array([1, None], "Int64")})
    )
    read_table(tmp_path / "t.parquet", "make it again", {"ratio": "float32", "tokens": "Int64"})


def test_what_the_analyses_write_is_what_is_declared(analysed):
    run = Run.open(analysed)
    for name in ("energy", "spectrum", "spectrum_summary", "spectrum_null", "angles", "curvature"):
        assert len(run.table(name, TABLES[name])) > 0


def draw_first(run):
    """What every figure begins with."""
    for name in ("energy", "angles", "curvature", "spectrum", "spectrum_summary"):
        load(run, name)


READERS = {
    "findings": (findings, ["energy", "angles", "curvature"]),
    "figures": (draw_first, ["energy", "angles", "curvature", "spectrum", "spectrum_summary"]),
}


@pytest.mark.parametrize(("reader", "name"), [(key, name) for key, (_, names) in READERS.items() for name in names])
def test_readers_end_in_one_line(analysed, reader, name):
    path = analysed / "analysis" / f"{name}.parquet"
    kept = path.read_bytes()
    table = pd.read_parquet(path)
    try:
        for column in TABLES[name]:
            write_table(path, table.drop(columns=column))
            with refuses(f"{name}.parquet has no column {column!r}", "subspace-lab analyze"):
                READERS[reader][0](Run.open(analysed))
    finally:
        path.write_bytes(kept)


def test_a_damaged_energy_table_is_not_what_a_plan_rests_on(analysed):
    path = analysed / "analysis" / "energy.parquet"
    kept, table = path.read_bytes(), pd.read_parquet(analysed / "analysis" / "energy.parquet")
    expected = recommend(Run.open(analysed))
    path.unlink()
    fresh = recommend(Run.open(analysed))  # of the default ranks
    try:
        for change in (
            {"null_noise": np.float32("nan")}, {"fraction": np.float32("inf")}, {"rank": "x"}, {"layer": "other"},
        ):  # fmt: skip
            write_table(path, table.assign(**change))
            assert recommend(Run.open(analysed)) == fresh
        write_table(path, table)
        assert recommend(Run.open(analysed)) == expected
        write_table(analysed / "analysis" / "noise.parquet", table)
        with refuses("noise.parquet has no column 'part'"):
            recommend(Run.open(analysed))
    finally:
        path.write_bytes(kept)
        (analysed / "analysis" / "noise.parquet").unlink(missing_ok=True)


def test_a_table_is_not_written_into_another_run(tmp_path):
    run = Run.open(make_run(tmp_path / "run"), write=True)
    (tmp_path / "run").rename(tmp_path / "away")
    make_run(tmp_path / "run")
    with pytest.raises(RunLostError, match="is another run than the one that was opened"):
        run.write_table("energy", TABLE)
    assert not (tmp_path / "run" / "analysis").exists()
