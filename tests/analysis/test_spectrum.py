"""Spectra and their summaries against float64 SVDs."""

import numpy as np
import pytest
import torch

from subspace_lab import analysis
from tests.runs_by_hand import noise, write_run

SHAPES = {"blocks.0.q_proj.weight": (12, 12), "blocks.0.up_proj.weight": (30, 12), "wide.weight": (5, 60)}


@pytest.mark.parametrize("keep", ["full", "gram", "topk:3", "stats"])
@pytest.mark.filterwarnings("ignore::subspace_lab.analysis.AnalysisNotice")
def test_singular_values_are_those_of_the_gradient(tmp_path, keep):
    gradients = noise(SHAPES)
    run = write_run(tmp_path / "run", gradients, keep=keep, steps=3)
    table = analysis.spectrum(run)
    summary = run.table("spectrum_summary").set_index(["step", "layer"])
    assert len(table) == 3 * (12 + 12 + 5)
    for (step, layer), rows in table.groupby(["step", "layer"], observed=True):
        sigma = np.linalg.svd(gradients(step)[layer].double().numpy(), compute_uv=False)
        assert rows["index"].tolist() == list(range(len(sigma)))
        np.testing.assert_allclose(rows["singular_value"], sigma, rtol=1e-3, atol=1e-3 * sigma[0])
        row = summary.loc[(step, layer)]
        p = sigma / sigma.sum()
        expected = {
            "frobenius_norm": np.linalg.norm(sigma),
            "stable_rank": (sigma**2).sum() / sigma[0] ** 2,
            "effective_rank": np.exp(-(p * np.log(p)).sum()),
            "participation_ratio": (sigma**2).sum() ** 2 / (sigma**4).sum(),
            "nuclear_rank": sigma.sum() ** 2 / (sigma**2).sum(),
        }
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, rel=1e-3), name


def test_the_noise_reference_is_the_spectrum_of_noise(tmp_path):
    run = write_run(tmp_path / "run", noise({f"blocks.{i}.w.weight": (24, 60) for i in range(6)}), steps=6)
    table = analysis.spectrum(run)
    norms = analysis.spectrum_summary(run).set_index(["step", "layer"])["frobenius_norm"]
    normalized = table["singular_value"] / norms.loc[list(zip(table["step"], table["layer"], strict=True))].to_numpy()
    mean = normalized.groupby(table["index"]).mean().to_numpy()
    null = run.table("spectrum_null")["singular_value"].to_numpy()
    np.testing.assert_allclose(mean, null, rtol=0.02)


def test_a_gradient_of_zeros_has_no_rank(tmp_path):
    run = write_run(tmp_path / "run", lambda step: {"a.w.weight": torch.zeros(4, 6)}, steps=1)
    summary = analysis.spectrum_summary(run)
    assert summary["frobenius_norm"].item() == 0
    assert summary[["stable_rank", "effective_rank", "participation_ratio", "nuclear_rank"]].isna().all(axis=None)
