"""Trace, shares, quotients and overlaps against the formed Hessian."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import subspace_lab as sl
from subspace_lab.analysis.loss.trace import trace_estimate
from tests.analysis.loss.problems import Quadratic, attending, softmax_problem


def summary_of(model, loss, batch, **settings):
    (row,) = sl.analysis.loss_curvature(model, loss, batch, **settings).summary.to_dict("records")
    return row


@pytest.mark.parametrize("k", [0, 3])
def test_the_trace_is_unbiased_and_its_error_is_what_it_says(k):
    """Over seeds: no further from the truth than its standard error allows, and as scattered as that says."""
    draw = torch.Generator().manual_seed(0)
    A = torch.randn(60, 60, generator=draw, dtype=torch.float64)
    H = (A + A.mT) / 2 + 8 * torch.diag(torch.tensor([1.0] * 3 + [0.0] * 57, dtype=torch.float64))
    values, vectors = (part.flip(-1) for part in torch.linalg.eigh(H))
    V, top = vectors[:, :k], values[:k].numpy()
    found = np.array([trace_estimate(lambda v: H @ v, V, top, 30, seed) for seed in range(300)])
    errors = found[:, 0] - float(H.trace())
    assert abs(errors.mean()) < 4 * errors.std() / 300**0.5
    assert np.sqrt((found[:, 1] ** 2).mean()) == pytest.approx(errors.std(), rel=0.15)


def test_taking_eigenvectors_out_makes_the_trace_exact_where_they_are_everything():
    H = torch.diag(torch.tensor([5.0, 3.0, 0.0, 0.0]))
    H = H + H.flip(0) * 0.1  # so that signs alone would not do
    H = (H + H.mT) / 2
    values, vectors = (part.flip(-1) for part in torch.linalg.eigh(H))
    trace, error = trace_estimate(lambda v: H @ v, vectors, values.numpy(), 2, 0)
    assert (trace, error) == (pytest.approx(8), 0)


def test_shares_and_quotients_of_a_quadratic():
    model = Quadratic.of(torch.linspace(-1, 6, 40))
    row = summary_of(model, model.loss, None, k=4, tol=1e-8, trace_samples=100)
    g, V = model.gradient(), torch.linalg.eigh(model.H)[1][:, -4:]
    share = float((V.mT @ g).norm() / g.norm())
    assert row["chi"] == pytest.approx(share, rel=1e-5)
    assert row["chi_bulk"] == pytest.approx((1 - share**2) ** 0.5, rel=1e-5)
    assert row["null_chi"] == pytest.approx((4 / 40) ** 0.5)
    assert row["gradient_norm"] == pytest.approx(float(g.norm()), rel=1e-6)
    assert row["rayleigh_gradient"] == pytest.approx(float(g @ model.H @ g / (g @ g)), rel=1e-6)
    assert row["parameters"] == 40
    assert row["converged"]
    assert abs(row["trace"] - 100) < 5 * row["trace_se"]
    assert all(math.isnan(row[name]) for name in ("rayleigh_core", "rayleigh_bulk", "overlap", "null_overlap"))


@pytest.mark.parametrize("rank", [2, None])
def test_core_and_bulk_of_a_matrix(rank):
    """Of 6 x 9: everything by the formed Hessian and an SVD."""
    model, batch = softmax_problem()
    H = model.hessian(batch)
    (G,) = torch.autograd.grad(model.loss(model, batch), model.linear.weight)
    r = rank or 1
    S = torch.linalg.svd(G)[0][:, :r]
    core = S @ S.mT @ G
    V = torch.linalg.eigh(H)[1][:, -3:].mT.reshape(3, 6, 9)
    row = summary_of(model, model.loss, batch, layers="linear.weight", k=3, tol=1e-9, rank=rank)
    for name, part in {"gradient": G, "core": core, "bulk": G - core}.items():
        d = part.flatten()
        assert row[f"rayleigh_{name}"] == pytest.approx(float(d @ H @ d / (d @ d)), rel=1e-5), name
    assert row["overlap"] == pytest.approx(float((S.mT @ V).square().sum() / 3), rel=1e-4)
    assert row["null_overlap"] == pytest.approx(r / 6)
    assert row["rank"] == r


def test_a_wide_matrix_is_turned_and_vectors_have_no_core():
    """The model of a tall matrix (its core is on the right) and a vector beside it."""
    model = nn.Linear(3, 7).double()
    x = torch.randn(10, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    row = summary_of(model, lambda m, x: torch.logsumexp(m(x), 1).mean(), x, k=2, rank=1)
    weight, _ = torch.autograd.grad(torch.logsumexp(model(x), 1).mean(), tuple(model.parameters()))
    assert min(weight.shape) == 3
    assert row["null_overlap"] == pytest.approx(7 / 28)  # one direction of three in 21 numbers, and 7 of the bias
    assert 0 <= row["overlap"] <= 1


def test_a_core_of_full_rank_leaves_no_bulk():
    model, batch = softmax_problem()
    row = summary_of(model, model.loss, batch, layers="linear.weight", k=2, rank=99)
    assert math.isnan(row["rayleigh_bulk"])
    assert row["overlap"] == pytest.approx(1)
    assert row["null_overlap"] == 1


def test_at_a_critical_point_there_is_no_direction():
    model = Quadratic.of(torch.linspace(1, 2, 50))
    model.b.zero_()
    nn.init.zeros_(model.w)
    row = summary_of(model, model.loss, None, k=2)
    assert all(math.isnan(row[name]) for name in ("chi", "chi_bulk", "rayleigh_gradient"))
    assert row["gradient_norm"] == 0


def test_eigenvalues_are_those_of_hessian():
    model, ids = attending()
    both = sl.analysis.loss_curvature(model, model.loss, ids, ("qkv.*", "head*"), k=2)
    alone = sl.analysis.hessian(model, model.loss, ids, ("qkv.*", "head*"), k=2)
    assert both.eigenvalues.equals(alone)
    assert both.summary["layer"].tolist() == ["qkv.weight", "qkv.bias", "head.weight"]
