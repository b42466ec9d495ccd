"""Layers on their longer side, m > n: there are n singular values, and nothing is made of the rounding beyond them."""

import numpy as np
import pytest
import scipy.linalg

from subspace_lab import analysis
from tests.runs_by_hand import noise, write_run

M, N = 40, 12
SHAPES = {f"blocks.{depth}.up_proj.weight": (M, N) for depth in range(2)}
SIDES = dict.fromkeys(SHAPES, "left")


def run_of(tmp_path, keep="gram"):
    gradients = noise(SHAPES)
    return write_run(tmp_path / "run", gradients, steps=3, keep=keep, residual_sides=SIDES, side="left"), gradients


@pytest.mark.parametrize("keep", ["full", "gram"])
def test_energy_is_that_of_the_definition_and_a_rank_above_n_means_n(tmp_path, keep):
    run, gradients = run_of(tmp_path, keep)
    for row in analysis.energy(run, ranks=(4, 12, 30), lags=(1,)).itertuples():
        G, before = (gradients(step)[row.layer].double().numpy() for step in (row.step, row.basis_step))
        rank = min(row.rank, N)
        S = np.linalg.svd(before)[0][:, :rank]
        assert row.fraction == pytest.approx((np.linalg.norm(S.T @ G) / np.linalg.norm(G)) ** 2, abs=1e-5)
        assert row.null_isotropic == pytest.approx(rank / M)
        assert (row.m, row.n) == (M, N)


@pytest.mark.filterwarnings("ignore::subspace_lab.analysis.AnalysisNotice")
@pytest.mark.parametrize("keep", ["full", "gram", "topk:5", "stats"])
def test_summaries_know_of_n_singular_values(tmp_path, keep):
    run, gradients = run_of(tmp_path, keep)
    table = analysis.spectrum(run)
    assert table.groupby(["step", "layer"], observed=True).size().eq(N).all()
    for row in run.table("spectrum_summary").itertuples():
        sigma = np.linalg.svd(gradients(row.step)[row.layer].double().numpy(), compute_uv=False)
        p = sigma / sigma.sum()
        assert row.effective_rank == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-4)
        assert row.nuclear_rank == pytest.approx(sigma.sum() ** 2 / (sigma**2).sum(), rel=1e-4)


def test_angles_are_those_of_the_n_directions_that_there_are(tmp_path):
    run, gradients = run_of(tmp_path)
    table = analysis.angles(run, rank=30)
    assert set(table["comparison"]) == {"previous", "first", "depth"}
    for row in table.itertuples():
        S1, S2 = (
            np.linalg.svd(gradients(step)[layer].double().numpy(), full_matrices=False)[0]
            for step, layer in ((row.step, row.layer), (row.reference_step, row.reference_layer))
        )
        assert row.mean_deg == pytest.approx(np.degrees(scipy.linalg.subspace_angles(S1, S2).mean()), abs=1e-2)
        assert row.null_overlap == pytest.approx(N / M)


def test_curvature_is_that_of_the_definition(tmp_path):
    run, gradients = run_of(tmp_path)
    table = analysis.curvature(run, rank=30, top=3)
    for (step, old, layer), rows in table.groupby(["step", "basis_step", "layer"], observed=True):
        G, before = (gradients(s)[layer].double().numpy() for s in (step, old))
        S = np.linalg.svd(before, full_matrices=False)[0]
        core = S.T @ G
        sigma = np.linalg.svd(-2 * (G - S @ core) @ core.T, compute_uv=False)[:3]
        np.testing.assert_allclose(rows["singular_value"], sigma, rtol=1e-4)
