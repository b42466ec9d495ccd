"""Bases of cosines against their explicit matrices: transforms, products in blocks, and which cosines a rule takes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from subspace_lab import optim
from subspace_lab.optim import cosines, transforms
from subspace_lab.optim.cosines import Cosines
from subspace_lab.optim.orientation import ALONG_ROWS
from subspace_lab.optim.random import normal_draw
from subspace_lab.optim.reference import bases
from subspace_lab.optim.rules import RULES, Context, Trig

LENGTHS = [1, 2, 3, 4, 7, 12, 16, 31, 64]
DTYPES = {torch.float32: 2e-6, torch.float64: 1e-14}


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def laid_out(X: torch.Tensor, turned: bool) -> torch.Tensor:
    return X.mT.contiguous().mT if turned else X.contiguous()


@pytest.mark.parametrize("m", LENGTHS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("turned", [False, True])
def test_transforms_are_products_with_the_matrix(m, dtype, turned):
    """Both implementations, lengths that are no powers of two, either layout; a transform may lose its argument."""
    C, x = torch.from_numpy(bases.cosines(m)), laid_out(normal(m, 5), turned)
    tolerance = DTYPES[dtype] * math.sqrt(m)
    for forward, back in ((transforms.dct, transforms.idct), (transforms.dct_by_fft, transforms.idct_by_fft)):
        torch.testing.assert_close(forward(x.to(dtype, copy=True)).double(), C @ x, rtol=0, atol=tolerance)
        torch.testing.assert_close(back(x.to(dtype, copy=True)).double(), C.mT @ x, rtol=0, atol=tolerance)
    torch.testing.assert_close(C @ C.mT, torch.eye(m).double(), rtol=0, atol=1e-13)


def some(m: int, r: int, *, seed: int = 0, signs: bool = True) -> tuple[Cosines, torch.Tensor]:
    """A basis and its matrix."""
    generator = torch.Generator().manual_seed(seed)
    indices = torch.randperm(m, generator=generator)[:r]
    D = torch.where(torch.rand(m, generator=generator) < 0.5, -1.0, 1.0) if signs else None
    S = torch.from_numpy(bases.cosines(m)).mT[:, indices]
    return Cosines(m, indices, D, products=torch.float64), S if D is None else D.double()[:, None] * S


@pytest.mark.parametrize("block", [1, 40, 1 << 18])
@pytest.mark.parametrize("signs", [True, False])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("m", "n", "r"), [(12, 17, 5), (31, 8, 31), (1, 3, 1), (9, 0, 2)])
def test_products_in_blocks(m, n, r, turned, signs, block, monkeypatch):
    monkeypatch.setattr(cosines, "BLOCK", block)
    basis, S = some(m, r, signs=signs)
    G, X = laid_out(normal(m, n), turned), normal(r, n, seed=1)
    close = {"rtol": 0, "atol": 1e-13}
    torch.testing.assert_close(basis.dense(torch.float64), S, **close)
    torch.testing.assert_close(basis.project(G), S.mT @ G, **close)
    for beta in (0.0, 1.0, 0.9):
        target = laid_out(normal(m, n, seed=2), turned)
        wanted = beta * target - 0.3 * S @ X
        basis.add_to(target.fill_(math.nan) if beta == 0 else target, X, alpha=-0.3, beta=beta)
        torch.testing.assert_close(target, wanted, **close)
    before, R = G.clone(), torch.full_like(G, math.nan)
    for where, part in basis.residuals(G, X):
        R[where] = part
    torch.testing.assert_close(R, G - S @ X, **close)
    assert torch.equal(G, before)


@pytest.mark.parametrize("block", [1, 40, 1 << 18])
def test_the_turn_between_two_bases(block, monkeypatch):
    monkeypatch.setattr(cosines, "BLOCK", block)
    for signs in (True, False):
        (new, S), (old, S_old) = some(12, 5, signs=signs), some(12, 5, seed=1, signs=signs)
        torch.testing.assert_close(new.turn(old), S.mT @ S_old, rtol=0, atol=1e-13)
    places = new.places_in(old).tolist()
    assert places == [old.indices.tolist().index(k) if k in old.indices.tolist() else -1 for k in new.indices.tolist()]
    assert -1 in places
    assert max(places) >= 0


def test_bfloat16_is_transformed_in_float32():
    """Its products are those of the rounded gradient to the digits of float32, rounded once where they are added."""
    basis, S = some(64, 16)
    G, X = normal(64, 40, dtype=torch.bfloat16), normal(16, 40, seed=1, dtype=torch.bfloat16)
    A = basis.project(G)
    assert A.dtype == torch.float32
    torch.testing.assert_close(A.double(), S.mT @ G.double(), rtol=0, atol=1e-5)
    target = torch.empty(64, 40, dtype=torch.bfloat16)
    basis.add_to(target, X, alpha=1.0, beta=0.0)
    torch.testing.assert_close(target.double(), S @ X.double(), rtol=2**-8, atol=1e-5)


def test_rules_that_transform_are_known_where_sides_are_chosen():
    assert {name for name, rule in RULES.items() if isinstance(rule, Trig)} == ALONG_ROWS


@pytest.mark.parametrize("rule", sorted(ALONG_ROWS))
def test_square_matrices_are_projected_along_their_rows(rule):
    """As those that are said to be; with a rank of 3 the other side gives another trajectory."""
    finals = {}
    for side in ("auto", "right", "left"):
        p = torch.nn.Parameter(torch.zeros(8, 8))
        optimizer = optim.SubspaceAdam([{"params": [p], "rank": 3}], rule=rule, side=side)
        p.grad = normal(8, 8, dtype=torch.float32)
        optimizer.step()
        finals[side] = p.detach()
    assert torch.equal(finals["auto"], finals["right"])
    assert not torch.allclose(finals["auto"], finals["left"])


@pytest.mark.parametrize("rule", sorted(ALONG_ROWS))
def test_no_basis_is_kept_and_it_is_orthonormal_for_ever(rule):
    p = torch.nn.Parameter(torch.zeros(24, 40))
    optimizer = optim.SubspaceAdam([{"params": [p], "rank": 7}], rule=rule, update_interval=1)
    for seed in range(60):
        p.grad = normal(24, 40, seed=seed, dtype=torch.float32)
        optimizer.step()
    assert not any("basis" in key for key in optimizer.state[p])
    kept = optimizer.state[p].get("indices")
    assert (kept is None) == (rule == "trig")
    if kept is not None:
        assert kept.dtype == torch.int32
        assert len(set(kept.tolist())) == 7
    live = optim.base.Live(p, optimizer.param_groups[0], 0, 0)
    ((_, basis),) = optimizer.bases(live, p.grad)
    S = basis.dense(torch.float32).double()
    assert (S.mT @ S - torch.eye(7)).abs().max() < 1e-6


def context(**group: object) -> Context:
    return Context(group, 2, 1, None, normal_draw(0, 0, 1))


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e15])
def test_the_cosines_of_most_energy_are_those_that_a_gradient_is_made_of(size):
    C = torch.from_numpy(bases.cosines(12))
    weights = torch.tensor([3.0, 1.0, 2.0]).double()
    G = size * (C.mT[:, [7, 2, 9]] * weights) @ torch.linalg.qr(normal(20, 3)).Q.mT
    S = RULES["dct"].first(G.float(), 2, context())
    assert S.indices.tolist() == [7, 9]
    unmoved = RULES["dct"].refresh(S, torch.zeros(12, 20), context())
    assert unmoved.indices.tolist() == [7, 9]


@pytest.mark.parametrize(("r", "swaps", "expected"), [(4, 1, 1), (4, 3, 3), (4, 9, 4), (9, 9, 3), (12, 2, 0)])
def test_a_walk_swaps_as_many_as_it_is_told(r, swaps, expected):
    basis, _ = some(12, r)
    moved = RULES["trig_walk"].refresh(basis, torch.zeros(12, 20), context(swaps=swaps))
    assert len(set(moved.indices.tolist())) == r
    assert int((moved.indices != basis.indices).sum()) == expected
    assert len(set(moved.indices.tolist()) - set(basis.indices.tolist())) == expected


def test_random_cosines_hold_their_share_of_any_gradient():
    """A direction that is one cosine: r/m on average over draws; cosines without signs hold all of it or nothing."""
    m, r, cosine = 32, 8, torch.from_numpy(bases.cosines(32))[5][:, None]
    shares = []
    for refresh in range(400):
        drawn = Context({}, 1, refresh, None, normal_draw(0, 0, refresh))
        shares.append(float(RULES["trig"].first(cosine, r, drawn).project(cosine).square().sum()))
    error = np.std(shares) / math.sqrt(len(shares))
    assert np.mean(shares) == pytest.approx(r / m, abs=4 * error)
    assert max(shares) < 0.9
