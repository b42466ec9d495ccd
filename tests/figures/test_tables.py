"""Which rows the figures show."""

import numpy as np
import pytest

from subspace_lab.figures.tables import (
    AbsentError,
    at_reference_rank,
    at_telling_rank,
    load,
    oriented_shape,
    panel_names,
    positions,
    stages,
)
from subspace_lab.runs import RunError
from tests.figures.synthetic import layer_row, make_run, transformer


def test_a_panel_is_a_kind_and_its_shape_where_the_kind_has_several(cases):
    names = panel_names(cases("shared kind"))
    assert names["h.0.attn.c_proj.weight"] == "c_proj 96×96"
    assert names["h.2.mlp.c_proj.weight"] == "c_proj 96×384"  # oriented: m <= n
    assert names["h.1.mlp.c_fc.weight"] == "c_fc"
    assert positions(cases("shared kind")) == {"c_proj 96×96": 0, "c_proj 96×384": 1, "c_fc": 2}


def test_load_names_the_panel_of_every_row(cases):
    table = load(cases("shared kind"), "energy")
    names = panel_names(cases("shared kind"))
    assert [names[layer] for layer in table["layer"]] == table["panel"].tolist()
    assert table["panel"].cat.categories.tolist() == list(positions(cases("shared kind")))


@pytest.mark.parametrize(("side", "shape"), [("left", (3, 5)), ("right", (5, 3))])
def test_oriented_shape(side, shape):
    assert oriented_shape({"rows": 3, "cols": 5, "side": side}) == shape


@pytest.mark.parametrize(
    ("steps", "parts"),
    [
        ([7], {"step 7": [7]}),
        ([9, 7, 9], {"early (step 7)": [7], "late (step 9)": [9]}),
        (range(0, 60, 10), {"early (steps 0–10)": [0, 10], "middle (steps 20–30)": [20, 30],
                            "late (steps 40–50)": [40, 50]}),
        (range(0, 50, 10), {"early (step 0)": [0], "middle (steps 10–30)": [10, 20, 30], "late (step 40)": [40]}),
    ],
)  # fmt: skip
def test_stages_are_thirds(steps, parts):
    assert stages(steps) == parts


def test_the_reference_rank_is_the_measured_one_nearest_a_quarter_of_m(cases):
    rows, rank = at_reference_rank(cases("llama"), load(cases("llama"), "angles"))
    assert rank == 64
    assert set(rows["rank"]) == {64}


def test_energies_are_shown_at_a_quarter_of_m_unless_that_holds_nearly_everything(tmp_path):
    run = make_run(tmp_path / "run", layers=transformer(1), steps=(0, 10))
    energy = load(run, "energy")
    assert at_telling_rank(run, energy)[1] == 64
    saturated = energy["ratio"].where(energy["rank"] <= 16, 0.999)
    assert at_telling_rank(run, energy.assign(ratio=saturated))[1] == 16
    with pytest.raises(AbsentError, match="finite"):
        at_telling_rank(run, energy.assign(ratio=np.nan))


@pytest.mark.parametrize(
    ("case", "table", "sentence"),
    [
        ("stats", "angles", r"keep=topk:K or gram or full; this run kept stats\."),
        ("topk", "curvature", r"keep=gram or full; this run kept topk:16\."),
        ("one snapshot", "curvature", "compares captured steps, and there are fewer than two"),
        ("llama", "nothing", "subspace-lab analyze"),
    ],
)
def test_what_is_absent_is_told_with_its_reason(cases, case, table, sentence):
    with pytest.raises(AbsentError, match=sentence):
        load(cases(case), table)


def test_a_table_that_another_run_left_behind_names_its_unknown_layer(tmp_path):
    run = make_run(tmp_path / "run", layers=[layer_row("a", -1, "a", (8, 8))], steps=(0,))
    other = make_run(tmp_path / "other", layers=[layer_row("b", -1, "b", (8, 8))], steps=(0,))
    (other.path / "analysis" / "energy.parquet").replace(run.path / "analysis" / "energy.parquet")
    with pytest.raises(RunError, match=r"layer 'b'.*subspace-lab analyze"):
        load(run, "energy")
