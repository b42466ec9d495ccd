"""How a basis is refreshed, literally: geodesics are matrix exponentials, tracking forms its residual.

A basis is chosen by ``rule(S, G, t, refresh, Mh)``: the old basis (None for the first one), the gradient, the step,
which refresh it is, and the bias-corrected first moment in the old basis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from scipy.linalg import expm

from subspace_lab.optim.reference.arrays import MACHINE_EPS, Array, Draw, top_left

Basis = Callable[[Array | None, Array, int, int, Array | None], Array]


def along_geodesic(S: Array, K: Array) -> Array:
    """The end of the geodesic that leaves S in the horizontal direction K: ``exp(K S^T - S K^T) S``."""
    end: Array = expm(K @ S.T - S @ K.T) @ S
    return end


def svd(rank: int, like: Sequence[Array] | None = None) -> Basis:
    """GaLore: the top-r left space of the gradient; signs as those of ``like``, the bases of every step."""
    return lambda _S, G, t, *_: top_left(G, rank, None if like is None else like[t - 1])


def frozen(rank: int, like: Sequence[Array] | None = None) -> Basis:
    """Never refreshed."""
    first = svd(rank, like)
    return lambda S, G, t, refresh, Mh: first(S, G, t, refresh, Mh) if S is None else S


def jump(draw: Draw) -> Basis:
    """GrassJump (arXiv 2510.01878): Q of the QR of a Gaussian matrix."""
    return lambda _S, _G, _t, refresh, _Mh: np.linalg.qr(draw(refresh))[0]


def coordinates(draw: Draw) -> Basis:
    """FRUGAL's rows (arXiv 2411.07837) as a basis: those r of the m whose first draw is smallest, in their order."""

    def rule(_S: Array | None, _G: Array, _t: int, refresh: int, _Mh: Array | None) -> Array:
        m, r = (X := draw(refresh)).shape
        S = np.zeros((m, r))
        for column, row in enumerate(sorted(np.argsort(X[:, 0])[:r])):
            S[row, column] = 1
        return S

    return rule


def cosines(m: int) -> Array:
    """The orthonormal cosine transform C (m, m), entry by entry; its rows are cosines of growing frequency."""
    k, i = np.arange(m)[:, None], np.arange(m)[None, :]
    C: Array = math.sqrt(2 / m) * np.cos(math.pi * k * (2 * i + 1) / (2 * m))
    C[0] /= math.sqrt(2)
    return C


def trig(rank: int, draw: Draw) -> Basis:
    """Random signs of the rows and r random cosines: signs of the first draws, the r smallest of the second ones."""

    def rule(_S: Array | None, _G: Array, _t: int, refresh: int, _Mh: Array | None) -> Array:
        X = draw(refresh)
        signs, chosen = np.where(X[:, 0] < 0, -1.0, 1.0), sorted(np.argsort(X[:, 1])[:rank])
        S: Array = np.diag(signs) @ cosines(len(X)).T[:, chosen]
        return S

    return rule


def trig_walk(rank: int, draw: Draw, swaps: int) -> Basis:
    """The same signs for good; ``swaps`` cosines leave at a refresh and others take their places, all by lot."""
    chosen: list[int] = []

    def rule(S: Array | None, _G: Array, _t: int, refresh: int, _Mh: Array | None) -> Array:
        X, first = draw(refresh), draw(0)
        m = len(X)
        if S is None:
            chosen[:] = sorted(np.argsort(first[:, 1])[:rank])
        else:
            others = [k for k in range(m) if k not in chosen]
            leaving, coming = np.argsort(X[:rank, 0]), np.argsort(X[: m - rank, 1])
            for place, other in list(zip(leaving, coming, strict=False))[:swaps]:
                chosen[place] = others[other]
        signs = np.where(first[:, 0] < 0, -1.0, 1.0)
        S_new: Array = np.diag(signs) @ cosines(m).T[:, chosen]
        return S_new

    return rule


def dct(rank: int) -> Basis:
    """DCT-AdamW (arXiv 2505.17967): the r cosines that hold most of the gradient's energy, by frequency."""

    def rule(S: Array | None, G: Array, _t: int, _refresh: int, _Mh: Array | None) -> Array:
        if S is not None and not G.any():
            return S
        C = cosines(len(G))
        energies = ((C @ G) ** 2).sum(1)
        chosen: Array = C.T[:, sorted(np.argsort(-energies, kind="stable")[:rank])]
        return chosen

    return rule


def walk(rank: int, draw: Draw, walk_step: float, like: Sequence[Array] | None = None) -> Basis:
    """GrassWalk (arXiv 2510.01878): a geodesic in a random direction, of the given root-mean-square principal angle."""

    def rule(S: Array | None, G: Array, t: int, refresh: int, Mh: Array | None) -> Array:
        if S is None:
            return svd(rank, like)(S, G, t, refresh, Mh)
        X = draw(refresh)
        D = X - S @ (S.T @ X)
        U, E, Vt = np.linalg.svd(D, full_matrices=False)
        angles = np.minimum(walk_step * math.sqrt(S.shape[1]) / np.linalg.norm(D) * E, math.pi / 2)
        return along_geodesic(S, (U * angles) @ Vt)

    return rule


def hybrid(rank: int, draw: Draw, walk_step: float, jump_every: int, like: Sequence[Array] | None = None) -> Basis:
    """Walks, and every ``jump_every``-th refresh a jump."""
    walks, jumps = walk(rank, draw, walk_step, like), jump(draw)

    def rule(S: Array | None, G: Array, t: int, refresh: int, Mh: Array | None) -> Array:
        jumping = S is not None and refresh % jump_every == 0
        return (jumps if jumping else walks)(S, G, t, refresh, Mh)

    return rule


def track(
    rank: int,
    step_size: float | Literal["exact"],
    like: Sequence[Array] | None = None,
    machine_eps: float = MACHINE_EPS,
) -> Basis:
    """SubTrack (arXiv 2502.01586): a geodesic in the direction of the leading singular pair of ``-dF/dS = 2 R A^T``.

    The error along it is a constant minus ``|cos th A^T v + sin th G^T u|^2``, so the exact angle is that of the
    leading eigenvector of the Gram matrix of ``A^T v`` and ``G^T u``.

    Args:
        rank: r.
        step_size: The angle over the singular value, or "exact".
        like: Bases of every step whose signs to take.
        machine_eps: Rounding of the arithmetic that is compared.

    Returns:
        The rule.
    """

    def rule(S: Array | None, G: Array, t: int, refresh: int, Mh: Array | None) -> Array:
        if S is None:
            return svd(rank, like)(S, G, t, refresh, Mh)
        A = S.T @ G
        R = G - S @ A
        U, s, Vt = np.linalg.svd(2 * R @ A.T)
        if s[0] <= 10 * machine_eps * np.linalg.norm(G) ** 2:
            return S
        u, v = U[:, 0] - S @ (S.T @ U[:, 0]), Vt[0]
        u /= np.linalg.norm(u)
        if step_size == "exact":
            pair = np.stack([A.T @ v, G.T @ u])  # (2, n)
            cosine, sine = np.linalg.eigh(pair @ pair.T)[1][:, 1]
            angle = math.atan2(sine * math.copysign(1, cosine), abs(cosine))
        else:
            angle = step_size * s[0]
        return along_geodesic(S, angle * np.outer(u, v))

    return rule


def power(rank: int, rho: float, like: Sequence[Array] | None = None) -> Basis:
    """LDAdam (arXiv 2410.16103): one block power iteration on ``b b^T``, ``b = rho S Mh + (1 - rho) G``."""

    def rule(S: Array | None, G: Array, t: int, refresh: int, Mh: Array | None) -> Array:
        if S is None or Mh is None:
            return svd(rank, like)(S, G, t, refresh, Mh)
        b = rho * S @ Mh + (1 - rho) * G
        return np.linalg.qr(b @ b.T @ S)[0]

    return rule


def golore(rank: int, draw: Draw, random_after: int, like: Sequence[Array] | None = None) -> Basis:
    """GoLore (arXiv 2410.11289): own spaces first, random ones after ``random_after`` steps."""

    def rule(S: Array | None, G: Array, t: int, refresh: int, Mh: Array | None) -> Array:
        late = S is not None and t - 1 >= random_after
        return (jump(draw) if late else svd(rank, like))(S, G, t, refresh, Mh)

    return rule
