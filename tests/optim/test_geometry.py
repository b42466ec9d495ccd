"""Where bases go: orthonormal, by the right angle, uniformly, and downhill."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import scipy.stats
import torch

from subspace_lab import optim
from subspace_lab.optim.rules import RULES, Context
from tests.optim.trajectories import drifting


def refreshed_bases(
    rule: str, m: int, n: int, r: int, gradients: list[torch.Tensor], dtype: torch.dtype = torch.float64, **settings
) -> list[np.ndarray]:
    """The basis after every step of an optimizer that refreshes at every step."""
    p = torch.nn.Parameter(torch.zeros(m, n, dtype=dtype))
    optimizer = optim.SubspaceAdam(
        [{"params": [p], "rank": r}], rule=rule, lr=1e-3, update_interval=1, recovery="none", **settings
    )
    found = []
    for G in gradients:
        p.grad = G.to(dtype)
        optimizer.step()
        found.append(optimizer.state[p]["basis"].double().numpy().copy())
    return found


def defect(S: np.ndarray) -> float:
    return float(np.abs(S.T @ S - np.eye(S.shape[1])).max())


@pytest.mark.slow
@pytest.mark.parametrize(("rule", "r"), [("walk", 3), ("walk", 7), ("hybrid", 3), ("track", 3), ("power", 3)])
def test_orthonormal_after_ten_thousand_refreshes_in_float32(rule, r):
    generator = torch.Generator().manual_seed(0)
    p = torch.nn.Parameter(torch.zeros(8, 10))
    optimizer = optim.SubspaceAdam(
        [{"params": [p], "rank": r}], rule=rule, lr=1e-3, update_interval=1, moments="keep", recovery="none"
    )
    worst = 0.0
    for t in range(10_001):
        p.grad = torch.randn(8, 10, generator=generator)
        optimizer.step()
        if t % 100 == 0:
            worst = max(worst, defect(optimizer.state[p]["basis"].double().numpy()))
    assert optimizer.state[p]["refreshes"] == 10_000
    assert worst < 1e-5


@pytest.mark.parametrize("rule", ["svd", "jump", "golore", "walk", "track", "power", "hybrid", "coordinates"])
def test_orthonormal_in_both_precisions(rule):
    for dtype, bound in ((torch.float64, 1e-14), (torch.float32, 2e-6)):
        for S in refreshed_bases(rule, 12, 20, 5, drifting((12, 20)), dtype):
            assert defect(S) < bound


@pytest.mark.parametrize(
    ("m", "r", "walk_step"),
    [*itertools.product((16,), (1, 4, 12), (0.001, 0.1, 0.3)), *((40, 8, step) for step in (0.001, 0.1, 0.3, 0.9))],
)
def test_one_walk_moves_by_exactly_walk_step(m, r, walk_step):
    """Root mean square over all r principal angles; r > m/2 has 2r - m that are 0 by necessity."""
    bases = refreshed_bases("walk", m, m + 4, r, drifting((m, m + 4), 8), walk_step=walk_step)
    for S, after in itertools.pairwise(bases):
        angles = scipy.linalg.subspace_angles(S, after)
        assert math.sqrt((angles**2).mean()) == pytest.approx(walk_step, rel=1e-9)


def test_angles_beyond_a_right_one_are_clipped_there():
    bases = refreshed_bases("walk", 16, 20, 4, drifting((16, 20), 8), walk_step=1.5)
    for S, after in itertools.pairwise(bases):
        angles = scipy.linalg.subspace_angles(S, after)
        assert angles.max() == pytest.approx(math.pi / 2, abs=1e-7)
        assert math.sqrt((angles**2).mean()) < 1.5


@pytest.mark.parametrize(("m", "r"), [(60, 59), (60, 45), (60, 30), (60, 4), (2, 1)])
@pytest.mark.parametrize("walk_step", [0.5, 1.5, 1e10, 1e25])
def test_a_long_walk_ends_in_an_orthonormal_basis_where_there_is_little_room(m, r, walk_step):
    """With r > m/2, 2r - m directions stay; a step however long is a right angle in all others, not an overflow."""
    context = Context({"walk_step": walk_step}, 2, 1, None, lambda *shape: torch.randn(*shape, generator=generator))
    for dtype, bound in ((torch.float32, 3e-6), (torch.float64, 1e-13)):
        generator = torch.Generator().manual_seed(0)
        S = torch.linalg.qr(torch.randn(m, r, generator=generator, dtype=dtype)).Q
        after, product = RULES["walk"].refresh(S, S, context)
        assert defect(after.double().numpy()) < bound
        assert (after.mT @ S - product).abs().max() < 10 * bound
        cosines = np.linalg.svd(S.double().numpy().T @ after.double().numpy(), compute_uv=False)
        assert (cosines[: 2 * r - m] > 1 - 10 * bound).all() if 2 * r > m else True
        if walk_step > 2 and dtype == torch.float64:  # in float32 the slowest direction may be rounding
            assert (cosines[max(2 * r - m, 0) :] < 100 * bound).all()


def test_a_walk_has_no_preferred_direction():
    """Seen from the old basis, the new direction of a one-dimensional walk is uniform on the sphere around it."""
    m, bases = 5, refreshed_bases("walk", 5, 6, 1, [torch.randn(5, 6).double()] * 801, walk_step=0.3)
    sines = []
    for S, after in itertools.pairwise(bases):
        sideways = after * np.sign((after * S).sum()) - S * np.abs((after * S).sum())
        frame = scipy.linalg.null_space(S.T)  # (m, m - 1)
        sines.append((frame.T @ sideways).ravel() / np.linalg.norm(sideways))
    expected = scipy.stats.beta(1 / 2, (m - 2) / 2)
    for coordinate in np.square(sines).T:
        assert scipy.stats.kstest(coordinate, expected.cdf).pvalue > 1e-3


@pytest.mark.parametrize(("m", "r"), [(12, 5), (12, 11), (81, 9), (400, 100)])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-14), (torch.float32, 3e-6)])
def test_a_jump_is_the_q_of_a_gaussian_matrix(m, r, dtype, bound):
    """By Householder reflections or by Cholesky: numpy's QR spans the same space."""
    X = torch.randn(m, r, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    S = RULES["jump"].first(torch.ones(m, m, dtype=dtype), r, Context({}, 1, 0, None, lambda *_: X)).double().numpy()
    Q = np.linalg.qr(X.numpy())[0]
    assert defect(S) < bound
    assert np.abs(S @ S.T - Q @ Q.T).max() < bound


@pytest.mark.parametrize(("m", "r"), [(6, 1), (8, 3), (10, 8)])
def test_jumps_are_uniform(m, r):
    """The share of any fixed direction follows Beta(r/2, (m-r)/2), also of a rotated one and of the last basis."""
    bases = refreshed_bases("jump", m, m, r, [torch.ones(m, m)] * 800)
    rotated = np.linalg.qr(np.random.default_rng(0).standard_normal((m, m)))[0]
    shares = {
        "first axis": [np.sum(S[0] ** 2) for S in bases],
        "last axis": [np.sum(S[-1] ** 2) for S in bases],
        "rotated": [np.sum((S.T @ rotated[:, 0]) ** 2) for S in bases],
        "previous basis": [np.sum((S.T @ old[:, 0]) ** 2) for old, S in itertools.pairwise(bases)],
    }
    law = scipy.stats.beta(r / 2, (m - r) / 2)
    for name, values in shares.items():
        assert scipy.stats.kstest(values, law.cdf).pvalue > 1e-3, name
    overlaps = [np.sum((old.T @ S) ** 2) / r for old, S in itertools.pairwise(bases)]
    assert np.mean(overlaps) == pytest.approx(r / m, abs=4 * np.std(overlaps) / math.sqrt(len(overlaps)))


def test_a_walk_that_is_long_forgets_where_it_was():
    """After many moves the overlap with the start is r/m, as for independent bases."""
    m, r = 8, 3
    bases = refreshed_bases("walk", m, m, r, drifting((m, m), 1) * 6000, walk_step=0.3)
    overlaps = [np.sum((bases[i].T @ bases[i + 60]) ** 2) / r for i in range(0, 5900, 60)]
    assert np.mean(overlaps) == pytest.approx(r / m, abs=4 * np.std(overlaps) / math.sqrt(len(overlaps)))


def estimation_error(S: np.ndarray, G: np.ndarray) -> float:
    """``min_A ||S A - G||_F^2`` by least squares."""
    A = np.linalg.lstsq(S, G, rcond=None)[0]
    return float(np.linalg.norm(S @ A - G) ** 2)


@pytest.mark.parametrize(("m", "n", "r"), [(12, 20, 1), (12, 20, 4), (12, 12, 11), (9, 30, 6)])
def test_exact_tracking_is_the_minimum_along_its_geodesic(m, n, r):
    gradients = drifting((m, n), 12, seed=3)
    bases = refreshed_bases("track", m, n, r, gradients, step_size="exact")
    for S, after, gradient in zip(bases, bases[1:], gradients[1:], strict=False):
        G = gradient.numpy()
        U, _, Vt = np.linalg.svd((G - S @ (S.T @ G)) @ (S.T @ G).T)
        tangent = np.outer(U[:, 0], Vt[0])

        def along(angle: float, S=S, G=G, tangent=tangent) -> float:
            return estimation_error(scipy.linalg.expm(angle * (tangent @ S.T - S @ tangent.T)) @ S, G)

        best = scipy.optimize.minimize_scalar(along, bounds=(-np.pi / 2, np.pi / 2), method="bounded")
        error = estimation_error(after, G)
        assert error <= estimation_error(S, G) * (1 + 1e-12)
        assert error == pytest.approx(best.fun, rel=1e-9)


def test_tracking_never_goes_uphill_in_float32_either():
    for seed in range(5):
        gradients = drifting((10, 16), 40, seed)
        bases = refreshed_bases("track", 10, 16, 3, gradients, torch.float32, step_size="exact")
        for S, after, gradient in zip(bases, bases[1:], gradients[1:], strict=False):
            G = gradient.numpy()
            assert estimation_error(after, G) <= estimation_error(S, G) + 1e-6 * np.linalg.norm(G) ** 2


def test_tracking_stays_where_there_is_nothing_to_gain():
    """A gradient that its own basis holds completely, or that has no part in the basis at all."""
    S = refreshed_bases("track", 6, 9, 2, drifting((6, 9), 1))[0]
    inside = torch.tensor(S @ np.random.default_rng(0).standard_normal((2, 9)))
    outside = torch.tensor(scipy.linalg.null_space(S.T) @ np.random.default_rng(1).standard_normal((4, 9)))
    for G in (inside, outside):
        bases = refreshed_bases("track", 6, 9, 2, [drifting((6, 9), 1)[0], G])
        assert np.array_equal(bases[0], bases[1])


def test_steps_of_tracking_in_the_papers_units():
    """The angle of one move is ``step_size`` times the leading singular value of ``2 R A^T``."""
    gradients = drifting((12, 20), 6, seed=1)
    bases = refreshed_bases("track", 12, 20, 4, gradients, step_size=0.02)
    for S, after, gradient in zip(bases, bases[1:], gradients[1:], strict=False):
        G = gradient.numpy()
        s = np.linalg.norm(2 * (G - S @ (S.T @ G)) @ (S.T @ G).T, 2)
        angles = scipy.linalg.subspace_angles(S, after)
        np.testing.assert_allclose(np.sort(angles), [0, 0, 0, 0.02 * s], atol=1e-7, rtol=1e-7)


def test_svd_takes_the_best_space():
    gradients = drifting((12, 20), 5)
    for S, gradient in zip(refreshed_bases("svd", 12, 20, 4, gradients), gradients, strict=True):
        G = gradient.numpy()
        assert estimation_error(S, G) == pytest.approx((np.linalg.svd(G)[1][4:] ** 2).sum(), rel=1e-10)


def test_small_singular_values_are_told_apart_although_they_are_squared():
    """Of float32 gradients, at 1e-4 of the largest: a Gram matrix in float32 knows nothing below 3e-4."""
    U, V = (np.linalg.qr(np.random.default_rng(seed).standard_normal((n, 12)))[0] for seed, n in enumerate((12, 20)))
    G = torch.tensor(U * np.repeat([1, 1e-2, 1e-4, 1e-5], 3) @ V.T).float()
    (S,) = refreshed_bases("svd", 12, 20, 9, [G], torch.float32)
    exact = np.linalg.svd(G.double().numpy())[0][:, :9]
    assert scipy.linalg.subspace_angles(S, exact).max() < 1e-6


@pytest.mark.parametrize("m", [2, 12, 200])
@pytest.mark.parametrize(
    "gradient",
    [
        lambda m: torch.eye(m, 2 * m),
        lambda m: torch.ones(m, 2 * m),
        lambda m: torch.zeros(m, 2 * m).index_fill_(0, torch.tensor([1]), 1.0),
        lambda m: torch.arange(m)[:, None].remainder(2) * torch.ones(2 * m),
        lambda m: 1e-15 * torch.diag(0.1 ** torch.arange(m).clamp_max(20)),
    ],
    ids=["identity", "ones", "one row", "every other row", "graded and tiny"],
)
def test_svd_of_gradients_with_multiple_singular_values(gradient, m):
    G = gradient(m)
    for r in {1, m // 2, m - 1, m}:
        (S,) = refreshed_bases("svd", *G.shape, r, [G], torch.float64)
        sizes = np.linalg.svd(G.double().numpy())[1]
        assert defect(S) < 1e-11
        assert estimation_error(S, G.double().numpy()) <= (sizes[r:] ** 2).sum() + 1e-12 * (sizes**2).sum()


def test_svd_takes_the_signs_of_the_last_basis():
    """Moments are kept by their rows: a flipped vector would turn what it has learned around."""
    bases = refreshed_bases("svd", 12, 20, 4, drifting((12, 20), 12))
    for S, after in itertools.pairwise(bases):
        assert ((S * after).sum(0) >= 0).all()


def test_power_iterations_converge_to_the_best_space_at_the_rate_of_the_gap():
    """On one and the same gradient the largest angle shrinks by the ratio of the neighbouring eigenvalues of G G^T."""
    G = drifting((12, 20), 1)[0]
    bases = refreshed_bases("power", 12, 20, 4, [drifting((12, 20), 1, seed=9)[0]] + [G] * 80, rho=0.0)
    U, s, _ = np.linalg.svd(G.numpy())
    angles = [scipy.linalg.subspace_angles(S, U[:, :4]).max() for S in bases]
    assert angles[80] / angles[60] == pytest.approx((s[4] / s[3]) ** 40, rel=1e-3)


@pytest.mark.parametrize("rule", ["svd", "frozen", "jump", "walk", "hybrid", "track", "power", "golore", "coordinates"])
@pytest.mark.parametrize("recovery", ["scaled", "sign"])
def test_at_full_rank_the_basis_stays_and_nothing_is_recovered(rule, recovery):
    """With the moments in an orthonormal basis of everything, the step lives in Adam's box of that basis."""
    m, n = 6, 9
    p = torch.nn.Parameter(torch.zeros(m, n).double())
    optimizer = optim.SubspaceAdam(
        [{"params": [p], "rank": m + 5}], rule=rule, recovery=recovery, lr=0.1, update_interval=2
    )
    plain = torch.nn.Parameter(torch.zeros(m, n).double())
    bases, adamw = [], torch.optim.AdamW([plain], lr=0.1, weight_decay=0.0)
    for G in drifting((m, n), 9):
        p.grad = G.clone()
        optimizer.step()
        bases.append(optimizer.state[p]["basis"].clone())
        plain.grad = bases[0].T @ G
        adamw.step()
    assert all(torch.equal(S, bases[0]) for S in bases)
    assert defect(bases[0].numpy()) < 1e-14
    torch.testing.assert_close(p.detach(), bases[0] @ plain.detach(), rtol=1e-12, atol=1e-12)
