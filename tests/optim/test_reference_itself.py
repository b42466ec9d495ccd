"""The literal algorithms against closed forms, torch's AdamW, and each other where one contains the other."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from subspace_lab.optim.reference import bases
from subspace_lab.optim.reference.adamw import adamw
from subspace_lab.optim.reference.apollo import apollo
from subspace_lab.optim.reference.badam import badam
from subspace_lab.optim.reference.cells import subspace_adam
from subspace_lab.optim.reference.fira import fira
from subspace_lab.optim.reference.frugal import frugal
from subspace_lab.optim.reference.galore import galore, golore
from subspace_lab.optim.reference.ldadam import ldadam
from subspace_lab.optim.reference.online import online_subspace_descent, pca_gradient
from subspace_lab.optim.reference.rso import rso
from tests.optim.trajectories import LR, SHAPES, STEPS, draws, drifting, weights

SHAPE = SHAPES["wide"]
M, N = SHAPE
START = weights(SHAPE).numpy()
GRADIENTS = [G.numpy() for G in drifting(SHAPE)]


def torch_adamw(W: np.ndarray, gradients: list[np.ndarray], **settings) -> list[np.ndarray]:
    p = torch.nn.Parameter(torch.tensor(W))
    optimizer = torch.optim.AdamW([p], **{"lr": LR, "weight_decay": 0.0, **settings})
    steps = []
    for G in gradients:
        p.grad = torch.tensor(G)
        optimizer.step()
        steps.append(p.detach().numpy().copy())
    return steps


def check_same(steps: list[np.ndarray], expected: list[np.ndarray]) -> None:
    np.testing.assert_allclose(steps, expected, rtol=1e-11, atol=1e-13)


def test_adamw_is_torchs():
    steps = adamw(START, GRADIENTS, lr=LR, weight_decay=0.1)
    check_same(steps, torch_adamw(START, GRADIENTS, weight_decay=0.1))


def test_galore_at_full_rank_is_adamw_in_the_basis_of_the_first_gradient():
    S = np.linalg.svd(GRADIENTS[0])[0]
    rotated = torch_adamw(S.T @ START, [S.T @ G for G in GRADIENTS])
    steps = galore(START, GRADIENTS, lr=LR, rank=M + 1, update_interval=5, scale=1.0)
    check_same(steps, [S @ W for W in rotated])


def test_galore_between_refreshes_moves_inside_its_space_only():
    steps = galore(START, GRADIENTS, lr=LR, rank=3, update_interval=STEPS)
    S = np.linalg.svd(GRADIENTS[0])[0][:, :3]
    moved = steps[-1] - START
    np.testing.assert_allclose(S @ (S.T @ moved), moved, atol=1e-14)


@pytest.mark.parametrize("shape", SHAPES)
def test_papers_are_cells_of_the_ablation(shape):
    start, gradients = weights(SHAPES[shape]).numpy(), [G.numpy() for G in drifting(SHAPES[shape])]
    m = min(SHAPES[shape])
    draw, common = draws(m, 4), {"lr": LR, "rank": 4, "update_interval": 3, "weight_decay": 0.1}

    def cell(rule, moments, recovery, **more):
        return subspace_adam(start, gradients, rule=rule, moments=moments, recovery=recovery, **common, **more)

    check_same(galore(start, gradients, scale=0.25, **common), cell(bases.svd(4), "keep", "none", scale=0.25))
    check_same(
        golore(start, gradients, draw=draw, random_after=7, scale=0.25, **common),
        cell(bases.golore(4, draw, 7), "keep", "none", scale=0.25),
    )
    check_same(fira(start, gradients, **common), cell(bases.svd(4), "keep", "scaled"))
    check_same(
        ldadam(start, gradients, rho=0.9, betas=(0.9, 0.99), **common),
        cell(bases.power(4, 0.9), "transport", "feedback", betas=(0.9, 0.99)),
    )


def test_apollo_that_sees_everything_scales_columns_as_adam_does():
    def identity(refresh: int) -> np.ndarray:
        return math.sqrt(M) * np.eye(M)

    steps = apollo(START, GRADIENTS, lr=LR, rank=M, draw=identity, zeta=None, eps=0.0)
    adam = np.diff([START, *torch_adamw(START, GRADIENTS, eps=0.0)], axis=0)
    np.testing.assert_allclose(
        np.linalg.norm(np.diff([START, *steps], axis=0), axis=1), np.linalg.norm(adam, axis=1), rtol=1e-9
    )
    np.testing.assert_allclose(
        steps[0] - START, -LR * GRADIENTS[0] * math.sqrt(M) / np.linalg.norm(GRADIENTS[0], axis=0), rtol=1e-9
    )


def test_the_limiter_of_apollo_lets_the_update_grow_by_one_percent():
    growing = [G * 2.0**t for t, G in enumerate(GRADIENTS)]
    steps = apollo(START, growing, lr=LR, rank=3, draw=draws(M, 3), update_interval=4)
    norms = np.linalg.norm(np.diff([START, *steps], axis=0), axis=(1, 2))
    assert (norms[1:] / norms[:-1]).max() == pytest.approx(1.01)


def test_frugal_is_adam_with_restarts_on_its_rows_and_signs_elsewhere():
    everywhere = frugal(START, GRADIENTS, lr=LR, rank=M, rows=lambda refresh: range(M), update_interval=STEPS)
    check_same(everywhere, torch_adamw(START, GRADIENTS))
    steps = frugal(START, GRADIENTS, lr=LR, rank=4, rows=lambda refresh: [0, 2, 5, 9], update_interval=STEPS)
    rows = torch_adamw(START[[0, 2, 5, 9]], [G[[0, 2, 5, 9]] for G in GRADIENTS])
    check_same([W[[0, 2, 5, 9]] for W in steps], rows)
    signs = np.cumsum([-LR * np.sign(G[[1, 3, 4]]) for G in GRADIENTS], axis=0)
    check_same([W[[1, 3, 4]] - START[[1, 3, 4]] for W in steps], list(signs))


def test_rso_in_the_whole_space_is_adamw_and_its_penalty_pulls_back():
    def identity(refresh: int) -> np.ndarray:
        return math.sqrt(M) * np.eye(M)

    settings = {"lr": LR, "rank": M, "draw": identity, "update_interval": STEPS}
    check_same(rso(START, GRADIENTS, **settings), torch_adamw(START, GRADIENTS))
    only_penalty = rso(START, [*GRADIENTS[:5], *[0 * G for G in GRADIENTS] * 60], prox=1.0, **{
        **settings, "update_interval": 10_000,
    })  # fmt: skip
    assert np.linalg.norm(only_penalty[-1] - START) < 0.05 * np.linalg.norm(only_penalty[4] - START)


def test_badam_is_adamw_on_one_block_after_the_other():
    parameters, order = [START, START.T.copy(), 2 * START], [[1, 0], [0, 1]]
    gradients = [[G, 2 * G.T, G - 1] for G in GRADIENTS]
    steps = badam(
        parameters, gradients, lr=LR, blocks=[0, 1, 0], order=lambda epoch: order[epoch % 2], update_interval=5
    )
    expected = list(parameters)
    for turn, active in enumerate([[1], [0, 2], [0, 2], [1]]):
        for i in active:
            expected[i] = torch_adamw(expected[i], [step[i] for step in gradients[5 * turn : 5 * turn + 5]])[-1]
        for W, exact in zip(steps[5 * turn + 4], expected, strict=True):
            check_same([W], [exact])


def test_online_gradient_is_the_derivative_of_the_papers_loss():
    P = torch.tensor(draws(M, 3)(0) / 3, requires_grad=True)
    g = torch.tensor(GRADIENTS[0] / np.linalg.norm(GRADIENTS[0]))
    loss = (P @ P.T @ g - g).square().sum() + 0.1 * (P.T @ P - torch.eye(3)).square().sum()
    (expected,) = torch.autograd.grad(loss, P)
    np.testing.assert_allclose(pca_gradient(P.detach().numpy(), GRADIENTS[0], 0.1), expected, atol=1e-13)


def test_online_subspace_descent_that_does_not_move_its_basis_is_frozen_galore():
    steps = online_subspace_descent(START, GRADIENTS, lr=LR, rank=3, basis_lr_scale=0.0)
    check_same(steps, galore(START, GRADIENTS, lr=LR, rank=3, update_interval=STEPS, scale=1.0))


def test_geodesics_are_the_closed_form():
    """``S V cos V^T + U sin V^T`` for the horizontal ``K = U E V^T``, and its principal angles are E."""
    S = np.linalg.qr(draws(M, 3)(0))[0]
    K = draws(M, 3)(1) * 0.2
    K -= S @ (S.T @ K)
    U, E, Vt = np.linalg.svd(K, full_matrices=False)
    end = bases.along_geodesic(S, K)
    np.testing.assert_allclose(end, (S @ Vt.T * np.cos(E)) @ Vt + (U * np.sin(E)) @ Vt, atol=1e-14)
    np.testing.assert_allclose(np.sort(scipy.linalg.subspace_angles(S, end)), np.sort(E), atol=1e-12)
