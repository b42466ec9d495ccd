"""Angle tables against scipy's principal angles and planted rotations."""

import numpy as np
import pandas as pd
import pytest
import scipy.linalg
import torch

from subspace_lab import analysis
from tests.runs_by_hand import noise, write_run

NAMES = [f"blocks.{depth}.{kind}.weight" for depth in range(3) for kind in ("q_proj", "up_proj", "down_proj")]
SHAPES = {name: {"q": (10, 10), "u": (24, 10), "d": (10, 24)}[name.split(".")[2][0]] for name in NAMES}
RESIDUAL = {name: {"q": "right", "u": "right", "d": "left"}[name.split(".")[2][0]] for name in NAMES}


def top_space(gradient: torch.Tensor, side: str, rank: int) -> np.ndarray:
    G = gradient.double().numpy()
    return np.linalg.svd(G if side == "left" else G.T)[0][:, :rank]


@pytest.mark.parametrize("keep", ["full", "gram"])
def test_every_row_equals_scipy(tmp_path, keep):
    gradients = noise(SHAPES)
    run = write_run(tmp_path / "run", gradients, steps=4, keep=keep, residual_sides=RESIDUAL)
    table = analysis.angles(run, rank=3)
    counts = table["comparison"].value_counts()
    assert counts.to_dict() == {"previous": 9 * 3, "first": 9 * 3, "depth": 6 * 4}
    for row in table.itertuples():
        S1 = top_space(gradients(row.step)[row.layer], row.side, 3)
        S2 = top_space(gradients(row.reference_step)[row.reference_layer], row.side, 3)
        theta = scipy.linalg.subspace_angles(S1, S2)
        assert row.mean_deg == pytest.approx(np.degrees(theta.mean()), abs=1e-2)
        assert row.max_deg == pytest.approx(np.degrees(theta.max()), abs=1e-2)
        assert row.overlap == pytest.approx((np.cos(theta) ** 2).mean(), abs=1e-4)
        assert row.chordal == pytest.approx(np.sqrt((np.sin(theta) ** 2).sum()), abs=1e-4)
        assert row.null_overlap == pytest.approx(0.3)
    depth = table[table["comparison"] == "depth"]
    assert (depth["side"] == depth["layer"].map(RESIDUAL)).all(), "neighbours meet in the residual stream"
    assert set(depth["reference_layer"].str.split(".").str[1].astype(int) - depth["depth"]) == {-1}


def test_a_planted_rotation_is_measured(tmp_path):
    basis = torch.linalg.qr(torch.randn(12, 6, dtype=torch.float64)).Q

    def gradients(step: int) -> dict[str, torch.Tensor]:
        angle = torch.tensor(0.2 * step / 10, dtype=torch.float64)
        S = basis[:, :3] * angle.cos() + basis[:, 3:] * angle.sin()
        return {"blocks.0.w.weight": S @ torch.randn(3, 40, dtype=torch.float64)}

    table = analysis.angles(write_run(tmp_path / "run", gradients, steps=4), rank=3)
    previous = table[table["comparison"] == "previous"]
    np.testing.assert_allclose(previous["mean_deg"], np.degrees(0.2), rtol=1e-5)
    np.testing.assert_allclose(previous["max_deg"], np.degrees(0.2), rtol=1e-5)
    first = table[table["comparison"] == "first"]
    np.testing.assert_allclose(first["mean_deg"], np.degrees([0.2, 0.4, 0.6]), rtol=1e-5)


def test_unrelated_noise_overlaps_by_its_null(tmp_path):
    run = write_run(tmp_path / "run", noise({f"blocks.{i}.w.weight": (32, 80) for i in range(5)}), steps=8)
    table = analysis.angles(run, rank=8)
    for comparison, rows in table.groupby("comparison", observed=True):
        excess = rows["overlap"] - rows["null_overlap"]
        independent = len(rows) if comparison != "first" else 5
        assert abs(excess.mean()) < 4 * excess.std() / np.sqrt(independent), comparison


def test_a_rank_above_m_leaves_nothing_to_turn(tmp_path):
    run = write_run(tmp_path / "run", noise({"blocks.0.a.weight": (4, 30), "blocks.0.b.weight": (20, 30)}), steps=3)
    table = analysis.angles(run, rank=9)
    small = table[table["layer"] == "blocks.0.a.weight"]
    assert (small["rank"] == 9).all()
    np.testing.assert_allclose(small["mean_deg"], 0, atol=1e-3)
    np.testing.assert_allclose(small[["overlap", "null_overlap"]], 1, atol=1e-6)


@pytest.mark.filterwarnings("ignore::subspace_lab.analysis.AnalysisNotice")
def test_topk_gives_the_same_angles_up_to_its_rank(tmp_path):
    gradients = noise(SHAPES)
    exact = analysis.angles(write_run(tmp_path / "gram", gradients, residual_sides=RESIDUAL), rank=2)
    kept = analysis.angles(write_run(tmp_path / "topk", gradients, keep="topk:4", residual_sides=RESIDUAL), rank=2)
    over_time = ["previous", "first"]
    pd.testing.assert_frame_equal(
        kept[kept["comparison"].isin(over_time)].reset_index(drop=True),
        exact[exact["comparison"].isin(over_time)].reset_index(drop=True),
        atol=2e-3,
        rtol=1e-3,
    )
    depth = kept[kept["comparison"] == "depth"]
    assert set(depth["kind"]) == {"up_proj", "down_proj"}, "of q_proj only the head side was kept"
    assert analysis.angles(write_run(tmp_path / "stats", gradients, keep="stats")).empty
