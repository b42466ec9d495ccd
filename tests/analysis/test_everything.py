"""The single pass, the findings and the first plan."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

import subspace_lab as sl
from tests.runs_by_hand import noise, write_run

SHAPES = {f"blocks.{depth}.{kind}.weight": (16, 24) for depth in range(3) for kind in ("q_proj", "down_proj")}


def planted(rank: int, half_life: float, strength: float = 30.0):
    """Low-rank gradients whose space turns into a new one, plus noise."""
    generator = torch.Generator().manual_seed(0)
    frame = torch.linalg.qr(torch.randn(32, 2 * rank, generator=generator)).Q

    def at(step: int) -> dict[str, torch.Tensor]:
        angle = torch.tensor(step * np.pi / 4 / half_life)
        S = frame[:, :rank] * angle.cos() + frame[:, rank:] * angle.sin()
        draw = torch.Generator().manual_seed(step)
        signal = strength * S @ torch.randn(rank, 64, generator=draw)
        return {"blocks.0.w.weight": signal + torch.randn(32, 64, generator=draw)}

    return at


def test_one_pass_gives_the_tables_of_the_separate_calls(tmp_path):
    run = write_run(tmp_path / "run", noise(SHAPES), steps=5)
    together = sl.analysis.analyze(run, ranks=(2, 8), rank=4)
    alone = {
        "energy": sl.analysis.energy(run, ranks=(2, 8)),
        "spectrum": sl.analysis.spectrum(run),
        "angles": sl.analysis.angles(run, rank=4),
        "curvature": sl.analysis.curvature(run, rank=4),
    }
    for name, table in alone.items():
        pd.testing.assert_frame_equal(together[name], table, rtol=1e-4, atol=1e-4)
    assert {path.stem for path in (run.path / "analysis").iterdir()} == set(together)


def test_all_tables_name_and_type_their_columns_alike(tmp_path):
    run = write_run(tmp_path / "run", noise(SHAPES), steps=3)
    tables = sl.analysis.analyze(run)
    names = {"layer", "reference_layer", "kind", "basis", "comparison", "side"}
    counts = {"step", "basis_step", "reference_step", "lag_steps", "rank", "m", "n", "numerical_rank"}
    for name, table in tables.items():
        for column, dtype in table.dtypes.items():
            small = {"depth": "int16", "index": "int16"}.get(column, "int32" if column in counts else "float32")
            assert str(dtype) == ("category" if column in names else small), (name, column)
        assert run.table(name).dtypes.to_dict() == table.dtypes.to_dict(), name


def test_a_run_opened_for_reading_is_not_written_to(tmp_path):
    write_run(tmp_path / "run", noise(SHAPES), steps=3)
    sl.analysis.analyze(sl.Run.open(tmp_path / "run"))
    assert not (tmp_path / "run" / "analysis").exists()


def test_findings_state_what_was_planted(tmp_path):
    run = write_run(tmp_path / "run", planted(rank=8, half_life=40.0), steps=9)
    sl.analysis.analyze(run, ranks=(8,), rank=8)
    core, trend, drift, flat = sl.analysis.findings(run)
    assert core.numbers["fraction"] > 0.99
    assert core.numbers["layers_above"] == core.numbers["layers"] == 1
    assert core.numbers["null_isotropic"] == 0.25
    assert abs(trend.numbers["training_change"]) < 0.01
    assert drift.numbers["mean_deg"] == pytest.approx(np.degrees(np.pi / 4 * 10 / 40), abs=0.5)
    assert "10 steps" in drift.text
    assert flat.numbers["normalized"] > flat.numbers["null_noise"]


def test_a_falling_ratio_is_called_falling(tmp_path):
    def gradients(step: int) -> dict[str, torch.Tensor]:
        draw = torch.Generator().manual_seed(step)
        signal = torch.linalg.qr(torch.randn(16, 2, generator=draw)).Q @ torch.randn(2, 24, generator=draw)
        return {name: (60 - step) * signal + torch.randn(16, 24, generator=draw) for name in SHAPES}

    run = write_run(tmp_path / "run", gradients, steps=6)
    sl.analysis.analyze(run, ranks=(4,))
    trend = sl.analysis.findings(run)[1]
    assert "falls by" in trend.text
    assert trend.numbers["high"] < 0
    assert trend.numbers["falling"] == len(SHAPES)


@pytest.mark.filterwarnings("ignore::subspace_lab.analysis.AnalysisNotice")
@pytest.mark.parametrize(("keep", "steps"), [("stats", 5), ("topk:4", 5), ("gram", 1)])
def test_findings_of_runs_that_hold_less(tmp_path, keep, steps):
    run = write_run(tmp_path / "run", noise(SHAPES), keep=keep, steps=steps)
    sl.analysis.analyze(run)
    titles = [finding.title for finding in sl.analysis.findings(run)]
    assert titles[0] == "Core energy against its null"
    assert ("Drift of the subspace" in titles) == (keep == "topk:4")
    assert "Curvature of the subspace error" not in titles


def test_the_plan_finds_the_planted_rank_and_half_life(tmp_path):
    run = write_run(tmp_path / "run", planted(rank=4, half_life=40.0), steps=20)
    sl.analysis.energy(run, ranks=(1, 2, 3, 4, 6, 8, 16), lags=(1, 2, 3, 4, 5, 6, 8))
    (layer,) = sl.recommend(run).layers
    assert layer.rank == 4

    def retained(age: float) -> float:
        """Above r/m, of the planted energy, which is all of it."""
        return (np.cos(age / 40 * np.pi / 4) ** 2 - 4 / 32) / (1 - 4 / 32)

    half_life = 40 / (np.pi / 4) * np.arccos(np.sqrt(0.5 * (1 - 4 / 32) + 4 / 32))
    assert retained(half_life) == pytest.approx(0.5)
    assert layer.update_interval == pytest.approx(half_life, rel=0.1)
    assert layer.retained == pytest.approx(retained(layer.update_interval), abs=0.05)
    assert layer.bound == ""


def test_the_plan_says_when_the_answer_lies_outside_what_was_measured(tmp_path):
    still = write_run(tmp_path / "still", planted(rank=4, half_life=1e9))
    assert [layer.bound for layer in sl.recommend(still).layers] == ["at least"]
    turning = write_run(tmp_path / "turning", planted(rank=4, half_life=5.0))
    (layer,) = sl.recommend(turning).layers
    assert (layer.update_interval, layer.bound) == (None, "at most")


def test_a_plan_is_saved_as_json_and_read_back(tmp_path):
    plan = sl.recommend(write_run(tmp_path / "run", planted(4, 40.0)))
    plan.save(tmp_path / "plan.json")
    assert sl.Plan.load(tmp_path / "plan.json") == plan
    assert json.loads((tmp_path / "plan.json").read_text())["layers"][0]["layer"] == "blocks.0.w.weight"
    (tmp_path / "broken.json").write_text("[]")
    with pytest.raises(sl.RunError, match=r"broken\.json is not a plan"):
        sl.Plan.load(tmp_path / "broken.json")


def test_new_snapshots_are_not_overlooked(tmp_path):
    run = write_run(tmp_path / "run", planted(4, 40.0), steps=4)
    sl.analysis.energy(run, ranks=(1,))
    write_run(tmp_path / "longer", planted(4, 40.0), steps=6)
    (tmp_path / "longer" / "analysis").mkdir()
    (run.path / "analysis" / "energy.parquet").rename(tmp_path / "longer" / "analysis" / "energy.parquet")
    plan = sl.recommend(sl.Run.open(tmp_path / "longer"))
    assert plan.steps == 6
    assert plan.layers[0].rank == 4


def test_gradients_of_zeros_have_nothing_to_tell_and_no_plan(tmp_path):
    run = write_run(tmp_path / "run", lambda step: {"blocks.0.w.weight": torch.zeros(4, 6)}, steps=3)
    sl.analysis.analyze(run)
    assert sl.analysis.findings(run) == []
    with pytest.raises(sl.RunError, match="holds no gradient with any energy"):
        sl.recommend(run)


def test_without_stale_energies_the_plan_has_ranks_and_no_intervals(tmp_path):
    run = write_run(tmp_path / "run", planted(4, 40.0), keep="stats")
    with pytest.warns(sl.analysis.AnalysisNotice, match="no stale energy"):
        plan = sl.recommend(run)
    table = plan.table()
    assert table["rank"].tolist() == [4]
    assert table[["update_interval", "retained"]].isna().all(axis=None)
    assert table["bound"].tolist() == [""]


def test_findings_before_the_analysis_say_what_to_do(tmp_path):
    run = write_run(tmp_path / "run", noise(SHAPES), steps=2)
    with pytest.raises(sl.RunError, match=r"has no table 'energy' yet; run: subspace-lab analyze "):
        sl.analysis.findings(run)


def test_a_single_age_is_told_once_and_depth_names_the_ratio(tmp_path):
    run = write_run(tmp_path / "run", noise(SHAPES), steps=2)
    sl.analysis.analyze(run, ranks=(4,))
    _, trend, drift, *_ = sl.analysis.findings(run)
    assert trend.text.startswith("From the first to the last block the energy ratio ")
    assert drift.text.count("10 steps") == 2  # once of the angles, once of the energy
