"""Curvature tangents against the explicit residual and core of each gradient."""

import numpy as np
import pytest
import torch

from subspace_lab import analysis
from tests.runs_by_hand import noise, write_run

SHAPES = {"blocks.0.q_proj.weight": (12, 12), "blocks.0.up_proj.weight": (40, 12)}


@pytest.mark.parametrize("keep", ["full", "gram"])
def test_every_row_equals_the_definition(tmp_path, keep):
    gradients = noise(SHAPES)
    table = analysis.curvature(write_run(tmp_path / "run", gradients, keep=keep), rank=4, top=3, lags=(1, 2))
    assert len(table) == 2 * (5 + 4) * 3
    for (step, old, layer), rows in table.groupby(["step", "basis_step", "layer"], observed=True):
        G, before = (gradients(s)[layer].double().numpy() for s in (step, old))
        if G.shape[0] > G.shape[1]:
            G, before = G.T, before.T
        S = np.linalg.svd(before)[0][:, :4]
        core = S.T @ G
        sigma = np.linalg.svd(-2 * (G - S @ core) @ core.T, compute_uv=False)[:3]
        np.testing.assert_allclose(rows["singular_value"], sigma, rtol=1e-4)
        np.testing.assert_allclose(rows["normalized"], sigma / np.linalg.norm(G) ** 2, rtol=1e-4)
        assert (rows["lag_steps"] == step - old).all()


def test_noise_lands_on_its_null(tmp_path):
    run = write_run(tmp_path / "run", noise({f"blocks.{i}.w.weight": (24, 60) for i in range(6)}), steps=8)
    table = analysis.curvature(run, rank=6, top=3)
    for _, rows in table.groupby("index"):
        excess = rows["normalized"] - rows["null_noise"]
        error = excess.std() * np.sqrt(1 / len(rows) + 1 / 10)  # the null itself is a mean over ten draws
        assert abs(excess.mean()) < 4 * error


def test_an_unmoved_space_is_flat(tmp_path):
    gradient = {"blocks.0.w.weight": torch.randn(10, 30)}
    table = analysis.curvature(write_run(tmp_path / "run", lambda step: gradient), rank=3)
    assert table["normalized"].max() < 1e-5


def test_at_full_rank_there_is_nothing_to_bend(tmp_path):
    run = write_run(tmp_path / "run", noise({"a.w.weight": (4, 9), "b.w.weight": (8, 9)}), steps=2)
    table = analysis.curvature(run, rank=6, top=2)
    assert (table.loc[table["layer"] == "a.w.weight", "singular_value"] == 0).all()
    assert (table.loc[table["layer"] == "b.w.weight", "singular_value"] > 0).all()


@pytest.mark.parametrize("keep", ["topk:4", "stats"])
def test_reductions_without_a_gram_matrix_have_no_curvature(tmp_path, keep):
    with pytest.warns(analysis.AnalysisNotice, match="no curvature"):
        assert analysis.curvature(write_run(tmp_path / "run", noise(SHAPES), keep=keep)).empty


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lags": ()}, "lags is empty"),
        ({"top": 0}, "top must be"),
        ({"rank": 99}, "rank 99 is larger than every layer"),
    ],
)
def test_bad_arguments_are_one_line(tmp_path, arguments, message):
    run = write_run(tmp_path / "run", noise(SHAPES), steps=1)
    with pytest.raises(ValueError, match=message):
        analysis.curvature(run, **arguments)
