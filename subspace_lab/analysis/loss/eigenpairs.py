"""The largest eigenvalues of a Hessian that is known by its products.

Legend: ``H`` (N, N); ``lambda_i`` eigenvalues, descending; ``V (N, k)`` their eigenvectors; ``c`` shift.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]
_LOOSE = 1e6  # a tolerance that any first approximation meets


@dataclass(frozen=True)
class Eigenpairs:
    """The algebraically largest eigenvalues.

    Attributes:
        values: Eigenvalues (k,), float64, descending.
        vectors: Eigenvectors (N, k), orthonormal columns in the same order.
        residuals: ``||H v_i - lambda_i v_i||`` (k,), float64, each measured by a product of its own.
        converged: Whether the residual is at most ``tol |lambda_0|`` (k,).
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

    Args:
        product: ``v -> H v`` for vectors (N,).
        size: N.
        k: How many, at most N.
        tol: The residual that counts as converged, as a share of ``|lambda_0|``.
        shift: c, a Rayleigh quotient of H for example, which is never above ``lambda_0``; 0 for none.
        max_products: Products after which what there is is returned; a pass of `num_lanczos` is always made.
        like: A tensor with the dtype and device of the vectors.
        seed: Of the starting vector.

    Returns:
        The eigenpairs, those that did not converge as well.
    """
    num_vectors = num_lanczos(size, k)
    if size <= num_vectors:
        V = _dense(product, size, k, like)
    else:
        V = _arpack(product, size, k, num_vectors, tol, max(shift, 0.0), max_products, like, seed)
    return _measured(product, V, tol)


def _dense(product: Product, size: int, k: int, like: Tensor) -> Tensor:
    """All of a small Hessian: no more products than the first pass of Lanczos."""
    columns = [product(column) for column in torch.eye(size, dtype=like.dtype, device=like.device)]
    H = torch.stack(columns).double()
    return _eigenvectors(H, k).to(like.dtype)


def _arpack(
    product: Product, size: int, k: int, ncv: int, tol: float, c: float, max_products: int, like: Tensor, seed: int
) -> Tensor:
    from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, LinearOperator, eigsh

    def matvec(v: np.ndarray) -> np.ndarray:
        flat = torch.from_numpy(np.ascontiguousarray(v.reshape(-1))).to(like)
        shifted: np.ndarray = product(flat).add_(flat, alpha=c).cpu().numpy()
        return shifted

    dtype = np.dtype(np.float64 if like.dtype == torch.float64 else np.float32)
    operator: Any = LinearOperator((size, size), matvec=matvec, dtype=dtype)
    v0: Any = np.random.default_rng(seed).standard_normal(size, np.float32).astype(dtype)
    passes = max(1, (max_products - ncv) // (ncv - k))
    try:
        found = eigsh(operator, k, which="LA", v0=v0, ncv=ncv, tol=tol / (2 if c else 1), maxiter=passes)[1]
    except ArpackNoConvergence as stopped:
        rough = eigsh(operator, k, which="LA", v0=v0, ncv=ncv, tol=_LOOSE, maxiter=1)[1]
        return _ritz(np.concatenate([stopped.eigenvectors.reshape(size, -1), rough], axis=1), product, k, like)
    except ArpackError:
        if bool((product(torch.from_numpy(v0).to(like)) != 0).any()):
            raise
        generator = np.random.default_rng(seed)  # the Hessian is zero, every direction is an eigenvector
        found = np.linalg.qr(generator.standard_normal((size, k)))[0]
    return torch.from_numpy(np.ascontiguousarray(found.T)).to(like).mT


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


def _measured(product: Product, V: Tensor, tol: float) -> Eigenpairs:
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
    return Eigenpairs(lambdas, sorted_V, errors, errors <= tol * abs(lambdas[0]))
