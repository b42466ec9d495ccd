"""The exchangeable parts: rules of one's own, stacked matrices, and what the limiter did."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import pytest
import torch

from subspace_lab import optim
from subspace_lab.optim.random import normal_draw
from subspace_lab.optim.reference.apollo import apollo
from subspace_lab.optim.reference.cells import subspace_adam
from subspace_lab.optim.reference.frugal import frugal
from subspace_lab.optim.reference.grass import grassjump
from subspace_lab.optim.reference.rso import rso
from subspace_lab.optim.rules import RULES, Context
from tests.optim.test_geometry import defect
from tests.optim.trajectories import LR, SHAPES, distance, draws, drifting, fast, weights


class EveryOtherRow:
    """A rule in a few lines: the first r rows, then the last, then the first again."""

    def first(self, G, rank, context):
        return torch.eye(G.shape[0], rank, dtype=G.dtype)

    def refresh(self, S, G, context):
        return S.flip(0)


def test_a_rule_of_ones_own():
    shape = SHAPES["wide"]
    start, gradients = weights(shape), drifting(shape)
    build = functools.partial(optim.SubspaceAdam, lr=LR, rule=EveryOtherRow(), update_interval=4)
    run = fast(build, start, gradients, rank=3)

    def rule(S, G, t, refresh, Mh):
        return np.eye(10, 3) if S is None else S[::-1]

    twin = subspace_adam(start.numpy(), [G.numpy() for G in gradients], rule=rule, lr=LR, rank=3, update_interval=4)
    assert distance(run.steps, twin, start) < 1e-9


def test_a_state_of_a_rule_that_is_not_there():
    p = torch.nn.Parameter(torch.zeros(4, 6))
    p.grad = torch.ones(4, 6)
    optimizer = optim.SubspaceAdam([{"params": [p], "rank": 2}], rule=EveryOtherRow())
    optimizer.step()
    plain = optim.SubspaceAdam([{"params": [torch.nn.Parameter(torch.zeros(4, 6))], "rank": 2}])
    with pytest.raises(ValueError, match="EveryOtherRow") as caught:
        plain.load_state_dict(optimizer.state_dict())
    assert "\n" not in str(caught.value)


def stacked(name: str, **settings) -> tuple[list[np.ndarray], list[list[torch.Tensor]]]:
    """Steps of three matrices stacked into one, and the gradients of each."""
    parts = [drifting((6, 9), 9, seed) for seed in range(3)]
    fused = [torch.cat(gradients) for gradients in zip(*parts, strict=True)]
    build = functools.partial(getattr(optim, name), lr=LR, splits=3, **settings)
    return fast(build, torch.zeros(18, 9).double(), fused, rank=2).steps, parts


class WalkAlone:
    """Walks without saying the product of the two bases, which is then computed."""

    options = ("walk_step",)

    def first(self, G, rank, context):
        return RULES["walk"].first(G, rank, context)

    def refresh(self, S, G, context):
        return RULES["walk"].refresh(S, G, context)[0]


def test_the_product_of_bases_that_a_rule_gives_is_the_one_that_would_be_computed():
    """Over ten moves, of which the eighth makes the basis orthonormal before; a long step takes the other path."""
    gradients = drifting(SHAPES["wide"], 21)
    for walk_step in (0.1, 0.9):
        steps = [
            fast(
                functools.partial(optim.SubspaceAdam, rule=rule, lr=LR, update_interval=2, walk_step=walk_step),
                weights(SHAPES["wide"]), gradients, rank=3,
            ).steps
            for rule in ("walk", WalkAlone())
        ]  # fmt: skip
        np.testing.assert_allclose(*steps, rtol=1e-9, atol=1e-13)


class Turning(WalkAlone):
    """Walks in a dtype of its own, if asked on what it was given."""

    def __init__(self, dtype=torch.float32, in_place=False):
        self.dtype, self.in_place = dtype, in_place

    def refresh(self, S, G, context):
        new = super().refresh(S, G, context).to(self.dtype)
        if self.in_place:
            G.zero_()
            return S.copy_(new), torch.zeros(3, 3)
        return new


def test_a_rule_of_ones_own_may_work_in_double_precision_and_in_place():
    """Beside the same rule in the dtype of the gradient; what it says of the product of bases is not relied on."""
    start, gradients = weights(SHAPES["wide"]), drifting(SHAPES["wide"])
    build = functools.partial(optim.SubspaceAdam, lr=LR, update_interval=2)
    runs = [
        fast(functools.partial(build, rule=rule), start, gradients, rank=3, dtype=torch.float32)
        for rule in (WalkAlone(), Turning(torch.float64), Turning(in_place=True))
    ]
    for run in runs[1:]:
        np.testing.assert_array_equal(run.steps, runs[0].steps)


@pytest.mark.parametrize("name", ["GaLore", "SubTrack", "LDAdam", "Fira", "OnlineSubspaceDescent"])
def test_stacked_matrices_are_optimized_each_on_its_own(name):
    """A fused QKV with splits=3 does exactly what three matrices do."""
    together, parts = stacked(name, update_interval=4)
    for k, gradients in enumerate(parts):
        build = functools.partial(getattr(optim, name), lr=LR, update_interval=4)
        alone = fast(build, torch.zeros(6, 9).double(), gradients, rank=2).steps
        np.testing.assert_allclose([step[6 * k : 6 * k + 6] for step in together], alone, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("name", "literal"),
    [
        ("GrassJump", lambda k: functools.partial(grassjump, draw=draws(6, 2, k))),
        ("APOLLO", lambda k: functools.partial(apollo, draw=draws(6, 2, k))),
        ("RSO", lambda k: functools.partial(rso, draw=draws(6, 2, k))),
        ("FRUGAL", lambda k: functools.partial(
            frugal, rows=lambda refresh: draws(1, 6, k)(refresh).ravel().argsort()[:2].tolist())),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_stacked_matrices_draw_each_its_own(name, literal):
    together, parts = stacked(name, update_interval=4, scale=1.0)
    for k, gradients in enumerate(parts):
        exact = [G.numpy() for G in gradients]
        alone = literal(k)(np.zeros((6, 9)), exact, lr=LR, rank=2, update_interval=4, scale=1.0)
        np.testing.assert_allclose([step[6 * k : 6 * k + 6] for step in together], alone, rtol=1e-9, atol=1e-12)


def test_splits_that_do_not_divide():
    p = torch.nn.Parameter(torch.zeros(10, 4))
    with pytest.raises(ValueError, match=r"splits=3.*10 rows"):
        optim.GrassWalk([{"params": [p], "rank": 2, "splits": 3}])


def test_the_limiters_factors_are_those_that_were_applied():
    """The factor times the norm without a limiter is the norm with it, by name, 1 where nothing was limited."""
    gradients = drifting(SHAPES["wide"], 8)
    p = torch.nn.Parameter(weights(SHAPES["wide"]))
    optimizer = optim.GrassJump([{"params": [("q_proj.weight", p)], "rank": 3}], lr=LR, update_interval=4)
    norms, factors = [], []
    for G in gradients:
        p.grad = G.clone()
        optimizer.step()
        norms.append(float(optimizer.state[p]["recovery_norm"]))
        (factor,) = optimizer.limiter_factors().values()
        factors.append(factor)
    assert list(optimizer.limiter_factors()) == ["q_proj.weight"]
    free = torch.nn.Parameter(weights(SHAPES["wide"]))
    unlimited = optim.GrassJump([{"params": [("q_proj.weight", free)], "rank": 3}], lr=LR, update_interval=4, zeta=None)
    for norm, factor, G in zip(norms, factors, gradients, strict=True):
        free.grad = G.clone()
        unlimited.step()
        assert factor == pytest.approx(norm / float(unlimited.state[free]["recovery_norm"]))
    assert factors[0] == 1
    assert min(factors) < 1
    for (before, after), factor in zip(itertools.pairwise(norms), factors[1:], strict=True):
        assert (after == pytest.approx(1.01 * before)) == (factor < 1)


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_states_of_another_precision(dtype):
    """They are kept as asked for; float64 states follow the exact trajectory no worse, bfloat16 ones stay near it."""
    shape = SHAPES["wide"]
    start, gradients = weights(shape), drifting(shape)
    build = functools.partial(optim.GrassWalk, lr=LR, update_interval=4)
    exact = fast(build, start, gradients, rank=3).steps
    plain = fast(build, start, gradients, rank=3, dtype=torch.float32)
    run = fast(functools.partial(build, state_dtype=dtype), start, gradients, rank=3, dtype=torch.float32)
    (state,) = run.optimizer.state.values()
    assert {state[key].dtype for key in ("basis", "exp_avg", "exp_avg_sq")} == {getattr(torch, dtype)}
    difference = distance(run.steps, exact, start)
    assert difference < (0.1 if dtype == "bfloat16" else 2 * distance(plain.steps, exact, start))


class WalkWatched(WalkAlone):
    """Walks, and remembers how far the bases that it was given are from orthonormal ones."""

    def __init__(self):
        self.defects = []

    def refresh(self, S, G, context):
        self.defects.append(defect(S.double().numpy()))
        return super().refresh(S, G, context)


def test_a_rule_is_given_an_orthonormal_basis_where_the_kept_one_is_rounded():
    """A Newton-Schulz step leaves three quarters of the square of the error E: no entry above 3/4 r max|E|²."""
    rule = WalkWatched()
    build = functools.partial(optim.SubspaceAdam, rule=rule, lr=LR, update_interval=2, state_dtype="bfloat16")
    start, gradients = weights(SHAPES["wide"]), drifting(SHAPES["wide"], 11)
    run = fast(build, start, gradients, rank=3, dtype=torch.float32)
    kept = max(defect(S) for S in run.bases)
    assert kept > 1e-4
    assert len(rule.defects) == 5
    assert max(rule.defects) < 0.75 * 3 * 1.05 * kept**2  # the last factor for its cube


@pytest.mark.parametrize(("bulk", "tolerance"), [(0.1, 0.002), (0.01, 0.02), (0.001, 0.1)])
@pytest.mark.parametrize("rule", ["svd", "jump"])
def test_the_norm_of_the_recovered_part_in_bfloat16(rule, bulk, tolerance):
    """Against the residual itself in float64, down to a bulk that holds a thousandth of the energy."""
    generator = torch.Generator().manual_seed(0)
    (m, n), r = (128, 352), 32
    S = RULES["jump"].first(torch.ones(m, m).double(), r, Context({}, 1, 0, None, normal_draw(0, 0, 0))).double()
    core, noise = (torch.randn(k, n, generator=generator).double() for k in (r, m))
    inside, outside = S @ core, noise - S @ (S.mT @ noise)
    G = (inside / inside.norm() + math.sqrt(bulk / (1 - bulk)) * outside / outside.norm()).bfloat16()
    p = torch.nn.Parameter(torch.zeros(m, n, dtype=torch.bfloat16))
    optimizer = optim.SubspaceAdam([{"params": [p], "rank": r}], rule=rule, zeta=None)
    p.grad = G
    optimizer.step()
    S = optimizer.state[p]["basis"].double()
    A = S.mT @ G.double()
    O = A / (A.abs() + 1e-8)  # Adam's first direction
    L = (G.double() - S @ A) * (O.norm(dim=0) / A.norm(dim=0))
    assert float(optimizer.state[p]["recovery_norm"]) == pytest.approx(float(L.norm()), rel=tolerance)
