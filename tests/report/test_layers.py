"""The numbers of the table of layers, against plain means."""

from statistics import fmean

import numpy as np
import pytest

from subspace_lab.report.layers import COLUMNS, layer_rows
from subspace_lab.runs import Run
from tests.figures.synthetic import make_run, transformer


def column(run, table, name, **chosen):
    rows = run.table(table).to_dict("records")
    return {row["step"]: row[name] for row in rows if all(row[key] == value for key, value in chosen.items())}


def test_every_number_is_the_mean_that_its_heading_says(cases):
    run = cases("llama")
    rows, ranks = layer_rows(run)
    assert ranks == {"energy": 64, "drift": 64}
    assert [row["name"] for row in rows] == [layer["name"] for layer in run.manifest["layers"]]
    row = next(row for row in rows if row["name"] == "model.layers.3.mlp.gate_proj.weight")
    assert (row["depth"], row["kind"], row["m"], row["n"]) == (3, "gate_proj", 256, 688)
    fractions = column(run, "energy", "fraction", layer=row["name"], basis="own", rank=64)
    assert row["energy"] == pytest.approx(fmean(fractions.values()))
    early = fmean(value for step, value in fractions.items() if step < 60)
    late = fmean(value for step, value in fractions.items() if step >= 140)
    assert row["trend"] == pytest.approx(late - early)
    assert row["null_isotropic"] == 0.25
    nulls = column(run, "energy", "null_noise", layer=row["name"], basis="own", rank=64)
    assert row["null_noise"] == pytest.approx(nulls[0])
    ranks = column(run, "spectrum_summary", "stable_rank", layer=row["name"])
    assert row["stable_rank"] == pytest.approx(fmean(ranks.values()))
    angles = column(run, "angles", "mean_deg", layer=row["name"], comparison="previous")
    assert row["drift"] == pytest.approx(fmean(angles.values()))


@pytest.mark.parametrize(("case", "unknown"), [("stats", {"drift"}), ("one snapshot", {"drift", "trend"})])
def test_what_is_not_measured_is_unknown(cases, case, unknown):
    rows, _ = layer_rows(cases(case))
    for row in rows:
        assert {key for key in row if row[key] is None} == unknown


def test_a_layer_without_finite_gradients_keeps_its_row(tmp_path):
    run = make_run(tmp_path / "run", layers=transformer(1), steps=(0, 10, 20))
    energy = run.table("energy")
    energy.loc[energy["kind"] == "q_proj", ["ratio", "fraction"]] = np.nan
    Run.open(run.path, write=True).write_table("energy", energy)
    rows, _ = layer_rows(run)
    assert rows[0]["kind"] == "q_proj"
    assert rows[0]["energy"] is rows[0]["trend"] is None
    assert all(row["energy"] is not None for row in rows[1:])


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [("trend", -0.0004, "+0.000"), ("trend", -0.05, "−0.050"), ("energy", None, "–"), ("energy", 0.61834, "0.618"),
     ("depth", -1, "−1"), ("kind", "q-proj", "q-proj")],
)  # fmt: skip
def test_how_a_value_is_written(key, value, text):
    (chosen,) = [column for column in COLUMNS if column.key == key]
    assert chosen.text(value) == text
