"""What is told of a step: against explicit residuals, and the limiter by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from subspace_lab import optim
from tests.optim.trajectories import drifting


def matrix_of(optimizer, p):
    """The basis, as a matrix."""
    if "basis" in optimizer.state[p]:
        return optimizer.state[p]["basis"].numpy()
    ((_, S),) = optimizer.bases(optim.base.Live(p, optimizer.param_groups[0], 0, 0), p.grad)
    return S.dense(p.dtype).numpy()


def stepped(shape, steps=6, **settings):
    """An optimizer after some steps, its last gradient in place, and the oriented residual of that step."""
    p = torch.nn.Parameter(torch.zeros(shape, dtype=torch.float64))
    optimizer = optim.SubspaceAdam([{"params": [p], "rank": 3}], lr=1e-2, update_interval=2, **settings)
    for G in drifting(shape, steps):
        p.grad = G.clone()
        optimizer.step()
    G = p.grad.numpy() if shape[0] <= shape[1] else p.grad.numpy().T
    S = matrix_of(optimizer, p)
    return optimizer, p, G, G - S @ (S.T @ G)


@pytest.mark.parametrize("shape", [(8, 12), (12, 8)], ids=str)
@pytest.mark.parametrize("recovery", ["none", "sign"])
@pytest.mark.parametrize("rule", ["walk", "trig", "trig_walk", "dct"])
def test_the_bulk_is_the_residual(shape, recovery, rule):
    optimizer, _, G, R = stepped(shape, recovery=recovery, rule=rule)
    found = optim.recovery_shares(optimizer)
    assert found == {"bulk_share": pytest.approx(np.linalg.norm(R) / np.linalg.norm(G), rel=1e-9)}


def test_recovered_is_what_the_weights_moved_by_outside_of_the_subspace():
    shape = (8, 12)
    optimizer, p, G, _ = stepped(shape, steps=5, rule="frozen", zeta=None, recovery_scale=0.5)
    before = p.detach().clone()
    p.grad = torch.from_numpy(G.copy())
    optimizer.step()
    S = optimizer.state[p]["basis"].numpy()
    moved = (before - p.detach()).numpy() / 1e-2
    L = moved - S @ (S.T @ moved)
    found = optim.recovery_shares(optimizer)
    assert found["recovery_share"] == pytest.approx(np.linalg.norm(L) / np.linalg.norm(G), rel=1e-9)
    assert (found["limiter"], found["limited_share"]) == (1.0, 0.0)


def test_the_limiters_factor():
    """Nothing but the limiter differs in the first step after which it can act."""
    shape = (8, 12)
    limited, free = (stepped(shape, steps=2, rule="jump", zeta=zeta)[0] for zeta in (1.0, None))
    (norm,), (unlimited,) = ([s["recovery_norm"] for s in o.state.values()] for o in (limited, free))
    found = optim.recovery_shares(limited)
    assert found["limiter"] == pytest.approx(min(1.0, float(norm / unlimited)), rel=1e-12)
    assert found["limited_share"] == float(found["limiter"] < 1)
    assert found["limiter"] < 1  # otherwise this shows nothing


def test_two_matrices_weigh_by_their_norms():
    one, two = (torch.nn.Parameter(torch.zeros(6, 9)) for _ in range(2))
    optimizer = optim.GaLore([{"params": [one, two], "rank": 2}], lr=1e-2)
    for p, size in ((one, 1.0), (two, 3.0)):
        p.grad = size * torch.eye(6, 9)
    optimizer.step()
    assert optim.recovery_shares(optimizer)["bulk_share"] == pytest.approx((4 / 6) ** 0.5)


def test_nothing_to_tell():
    p = torch.nn.Parameter(torch.zeros(6, 9))
    assert optim.recovery_shares(torch.optim.AdamW([p])) == {}
    assert optim.recovery_shares(optim.GrassWalk([{"params": [p], "rank": 2}])) == {}  # no step yet
