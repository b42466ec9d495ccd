"""The largest eigenvalues of a Hessian that is known by its products.

Legend: ``H`` (N, N); ``lambda_i`` eigenvalues, descending; ``V (N, k)`` their eigenvectors; ``c`` shift.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]
_ROUNDINGS = 32  # of a product, as a share of the largest eigenvalue
_LOOSE = 1e6  # a tolerance that any first approximation meets


@dataclass(frozen=True)
class Eigenpairs:
    """The algebraically largest eigenvalues.

    Attributes:
        values: Eigenvalues (k,), float64, descending.
        vectors: Eigenvectors (N, k), orthonormal columns in the same order.
        residuals: ``||H v_i - lambda_i v_i||`` (k,), float64, each measured by a product of its own.
        converged: Whether the residual is at most ``tol max_i |lambda_i|`` (k,), which is ``tol |lambda_0|`` unless
            larger negative ones are among the k, or nothing but the rounding of products.
    """

    values: np.ndarray
    vectors: Tensor
    residuals: np.ndarray
    converged: np.ndarray


def num_lanczos(size: int, k: int) -> int:
    """Lanczos vectors that `largest_eigenpairs` keeps: ``2 k + 3``, at least 12, at most N."""
    return min(size, max(2 * k + 3, 12))


def largest_eigenpairs(
    product: Product, size: int, k: int, *, tol: float, shift: float, max_products: int, like: Tensor, seed: int
) -> Eigenpairs:
    """The k algebraically largest eigenpairs by ARPACK (`scipy.sparse.linalg.eigsh`), with measured residuals.

    ARPACK is content with an eigenvalue when its residual is below a share of *that* eigenvalue, which for small ones
    asks for far more than ``tol |lambda_0|``, and for zero ones never ends. Adding a shift ``0 <= c <= lambda_0`` to
    the operator changes no eigenvector and no Krylov space, and with it ``tol / 2 (lambda_i + c) <= tol lambda_0``.
    Where no such shift is known, since ``lambda_0`` may be zero or negative, that of a mean eigenvalue serves.
    ARPACK may then be content too soon, as it is with negative eigenvalues larger in magnitude: it is asked again, more
    strictly, until every residual is below ``tol |lambda_0|``, or as small as the rounding of products lets it be.

    Args:
        product: ``v -> H v`` for vectors (N,).
        size: N.
        k: How many, at most N.
        tol: The residual that counts as converged, as a share of the largest magnitude among the k eigenvalues.
        shift: c, a Rayleigh quotient of H for example, which is never above ``lambda_0``; 0 where none is known.
        max_products: Products after which what there is is returned; a pass of `num_lanczos` is always made.
        like: A tensor with the dtype and device of the vectors.
        seed: Of the starting vector.

    Returns:
        The eigenpairs, those that did not converge as well.
    """
    num_vectors = num_lanczos(size, k)
    counted, search = _Counted(product), max(shift, 0.0)
    if size <= num_vectors:
        return _measured(counted, _dense(counted, size, k, like), tol)
    start = torch.from_numpy(np.random.default_rng(seed).standard_normal(size, np.float32)).to(like)
    search = search or counted.length_of(start)
    asked = tol / 2
    while True:
        left = max_products - counted.made
        V = _arpack(counted, size, k, num_vectors, asked, search, left, start, seed)
        found = _measured(counted, V, tol)
        stricter = _stricter(found, tol, search, counted.rounding(like.dtype))
        if stricter >= asked or max_products - counted.made < num_vectors + k:
            return found
        start, asked = found.vectors.sum(1), stricter


class _Counted:
    """A product that knows how often it was made, and how long its longest image of a unit vector was."""

    def __init__(self, product: Product) -> None:
        self._product, self.made, self._longest = product, 0, 0.0

    def __call__(self, v: Tensor) -> Tensor:
        self.made += 1
        image = self._product(v)
        norms = [float(torch.linalg.vector_norm(w)) for w in (image, v)]
        self._longest = max(self._longest, norms[0] / norms[1] if norms[1] else 0.0)
        return image

    def length_of(self, v: Tensor) -> float:
        """``||H v|| / ||v||``, of a random v a mean of the eigenvalues' magnitudes."""
        self(v)
        return self._longest

    def rounding(self, dtype: torch.dtype) -> float:
        """The residual below which there is nothing but the rounding of products."""
        return _ROUNDINGS * torch.finfo(dtype).eps * self._longest


def _stricter(found: Eigenpairs, tol: float, c: float, rounding: float) -> float:
    """The share of every eigenvalue that ARPACK is to be asked for next; infinite where nothing is to be gained."""
    wanted = max(tol * abs(float(found.values[0])), rounding)
    if (found.residuals <= wanted).all():
        return math.inf
    return wanted / 2 / float(np.abs(found.values + c).max())


def _dense(product: Product, size: int, k: int, like: Tensor) -> Tensor:
    """All of a small Hessian: no more products than the first pass of Lanczos."""
    columns = [product(column) for column in torch.eye(size, dtype=like.dtype, device=like.device)]
    H = torch.stack(columns).double()
    return _eigenvectors(H, k).to(like.dtype)


def _arpack(
    product: Product, size: int, k: int, ncv: int, tol: float, c: float, max_products: int, start: Tensor, seed: int
) -> Tensor:
    from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, LinearOperator, eigsh

    def matvec(v: np.ndarray) -> np.ndarray:
        flat = torch.from_numpy(np.ascontiguousarray(v.reshape(-1))).to(start)
        shifted: np.ndarray = product(flat).add_(flat, alpha=c).cpu().numpy()
        return shifted

    v0: Any = start.cpu().numpy()
    operator: Any = LinearOperator((size, size), matvec=matvec, dtype=v0.dtype)
    passes = max(1, (max_products - ncv) // (ncv - k))
    try:
        found = eigsh(operator, k, which="LA", v0=v0, ncv=ncv, tol=tol, maxiter=passes)[1]
    except ArpackNoConvergence as stopped:
        rough = eigsh(operator, k, which="LA", v0=v0, ncv=ncv, tol=_LOOSE, maxiter=1)[1]
        return _ritz(np.concatenate([stopped.eigenvectors.reshape(size, -1), rough], axis=1), product, k, start)
    except ArpackError:
        if bool((product(start) != 0).any()):
            raise
        generator = np.random.default_rng(seed)  # the Hessian is zero, every direction is an eigenvector
        found = np.linalg.qr(generator.standard_normal((size, k)))[0]
    return torch.from_numpy(np.ascontiguousarray(found.T)).to(start).mT


def _ritz(spanning: np.ndarray, product: Product, k: int, like: Tensor) -> Tensor:
    """The best k approximations that a space holds (Rayleigh and Ritz)."""
    Q = torch.linalg.qr(torch.from_numpy(spanning).to(like))[0]
    T = torch.stack([Q.mT @ product(Q[:, j].contiguous()) for j in range(Q.shape[1])], dim=1).double()
    best: Tensor = Q @ _eigenvectors(T, k).to(Q.dtype)
    return best


def _eigenvectors(H: Tensor, k: int) -> Tensor:
    """The leading k of a small matrix that is symmetric but for rounding."""
    vectors: Tensor = torch.linalg.eigh((H + H.mT) / 2)[1]
    return vectors.flip(1)[:, :k]


def _measured(product: _Counted, V: Tensor, tol: float) -> Eigenpairs:
    """Rayleigh quotients and residuals of approximate eigenvectors, sorted."""
    values, residuals = [], []
    for v in V.mT:
        image = product(v.contiguous())
        value = float(v @ image)
        values.append(value)
        residuals.append(float(torch.linalg.vector_norm(image.sub_(v, alpha=value))))
    order = np.argsort(values)[::-1]
    lambdas, errors = np.array(values)[order], np.array(residuals)[order]
    sorted_V = V if (order == np.arange(len(order))).all() else V[:, torch.from_numpy(order.copy()).to(V.device)]
    return Eigenpairs(lambdas, sorted_V, errors, errors <= max(tol * np.abs(lambdas).max(), product.rounding(V.dtype)))
