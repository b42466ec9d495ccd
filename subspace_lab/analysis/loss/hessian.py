"""How the loss bends: leading eigenvalues and trace of its Hessian, and where the gradient lies to them.

Legend: ``g`` gradient of a block (N,), ``H`` its Hessian (N, N), ``lambda_i`` its eigenvalues, descending.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from subspace_lab._checks import is_number, whole_number
from subspace_lab.analysis.loss.attention import twice_differentiable_attention
from subspace_lab.analysis.loss.blocks import Block, select_blocks
from subspace_lab.analysis.loss.directions import (
    core_of,
    core_overlap,
    core_part,
    dominant_share,
    matrix_part,
    usual_rank,
)
from subspace_lab.analysis.loss.eigenpairs import Eigenpairs, largest_eigenpairs, num_lanczos
from subspace_lab.analysis.loss.operator import HessianOperator, Loss, LossOnBatch
from subspace_lab.analysis.loss.refusals import check_model
from subspace_lab.analysis.loss.to_table import to_table
from subspace_lab.analysis.loss.trace import trace_estimate
from subspace_lab.analysis.notices import progress

if TYPE_CHECKING:
    import pandas as pd

MAX_PRODUCTS = 1000
TRACE_SAMPLES = 16


@dataclass(frozen=True)
class LossCurvature:
    """What the Hessian of a loss is like, block by block.

    Attributes:
        eigenvalues: One row per block and eigenvalue, as from `hessian`.
        summary: One row per block: layer, parameters (N), k, rank, gradient_norm, trace, trace_se, chi, chi_bulk,
            null_chi, rayleigh_gradient, rayleigh_core, rayleigh_bulk, overlap, null_overlap, products, converged.
    """

    eigenvalues: pd.DataFrame
    summary: pd.DataFrame


def hessian(
    model: nn.Module,
    loss: Loss,
    batch: Any,
    layers: str | Sequence[str] | None = None,
    k: int = 10,
    tol: float = 1e-3,
    *,
    micro_batch: int | None = None,
    max_products: int = MAX_PRODUCTS,
    seed: int = 0,
) -> pd.DataFrame:
    """The algebraically largest eigenvalues of the Hessian of a loss, with their residuals.

    Products by double backward, eigenvalues by ARPACK, residuals each by a product of their own; see
    `subspace_lab.analysis.loss`. Memory: `memory_vectors(k)` vectors of the size of a block, beside the model and the
    graph of one micro-batch. Attention runs without fused kernels, which have no second derivative, and as before
    afterwards.

    Args:
        model: Any model; dropout and batch normalization in evaluation mode.
        loss: ``loss(model, batch)``, a scalar; ``lambda model, batch: model(**batch).loss`` for transformers.
        batch: What the loss takes: tensors, dicts of them, a batch of transformers as it is.
        layers: Globs on canonical parameter names; each matching parameter is a block of its own, with the Hessian of
            the loss as a function of it alone. None takes all trainable parameters as one block named "model".
        k: How many eigenvalues per block, at most its size.
        tol: The residual that counts as converged, as a share of the largest eigenvalue.
        micro_batch: Examples at a time, for batches that are too large; the loss must be a mean over examples. None
            takes the batch as it is, which is faster.
        max_products: Products per block after which the search ends; what has not converged by then is returned so
            marked.
        seed: Of the starting vector.

    Returns:
        One row per block and eigenvalue: layer, index (0 the largest), eigenvalue, residual (``||H v - lambda v||``),
        converged (residual at most ``tol |lambda_0|``). ``attrs`` says the loss, how attention was computed, and the
        memory in vectors.

    Raises:
        ValueError: If an argument is wrong, a pattern matches nothing, k is larger than a block, dropout is on or
            batch normalization in training mode, or the loss is not a scalar, random, not finite, or without second
            derivative.
    """
    pairs: list[tuple[Block, Eigenpairs]] = []

    def keep(block: Block, _: _Measured, found: Eigenpairs) -> None:
        pairs.append((block, _without_vectors(found)))

    about = _each_block(model, loss, batch, layers, _Search(k, tol, micro_batch, max_products, seed), keep)
    return _eigenvalues(pairs, about)


def loss_curvature(
    model: nn.Module,
    loss: Loss,
    batch: Any,
    layers: str | Sequence[str] | None = None,
    k: int = 10,
    tol: float = 1e-3,
    *,
    rank: int | None = None,
    trace_samples: int = TRACE_SAMPLES,
    micro_batch: int | None = None,
    max_products: int = MAX_PRODUCTS,
    seed: int = 0,
) -> LossCurvature:
    """`hessian`, and what its eigenvectors and products tell besides: the trace, and where the gradient lies.

    ``chi = ||P_k g|| / ||g||`` is the share of the gradient's norm in the space of the k eigenvectors
    (arXiv 1812.04754, 2405.16002), ``chi_bulk`` that of the rest; ``null_chi`` is what a random direction gives,
    ``sqrt(k / N)``. Rayleigh quotients ``d^T H d / d^T d`` are the curvature of the loss along the gradient, along its
    core (the top-r left singular space of each matrix) and along its bulk. ``overlap`` is the share of the dominant
    Hessian space that lies in the core subspace, ``null_overlap`` what a random space gives.

    Args:
        model: As for `hessian`.
        loss: As for `hessian`.
        batch: As for `hessian`.
        layers: As for `hessian`.
        k: As for `hessian`.
        tol: As for `hessian`.
        rank: Rank of the core of every matrix; by default a quarter of the smaller side (the median one of a block).
        trace_samples: Random vectors for the trace, at least 2.
        micro_batch: As for `hessian`.
        max_products: As for `hessian`; the trace and the Rayleigh quotients come on top.
        seed: Of the starting vector and of the random vectors.

    Returns:
        Both tables.

    Raises:
        ValueError: As `hessian`.
    """
    whole_number("trace_samples", trace_samples, least=2, otherwise=", as one random vector has no standard error")
    ranks = None if rank is None else whole_number("rank", rank)
    pairs: list[tuple[Block, Eigenpairs]] = []
    rows: list[dict[str, Any]] = []

    def keep(block: Block, measured: _Measured, found: Eigenpairs) -> None:
        rows.append(_summary(block, measured, found, ranks or usual_rank(block), trace_samples, seed))
        pairs.append((block, _without_vectors(found)))

    about = _each_block(model, loss, batch, layers, _Search(k, tol, micro_batch, max_products, seed), keep)
    return LossCurvature(_eigenvalues(pairs, about), to_table(rows, about))


def memory_vectors(k: int) -> int:
    """The vectors of a block's size that are held at most, for k eigenvalues.

    Args:
        k: How many eigenvalues.

    Returns:
        Lanczos vectors, eigenvectors twice (as ARPACK has them and as they are returned), and twelve for the products.

    >>> memory_vectors(10)
    55
    """
    return num_lanczos(1 << 60, k) + 2 * k + 12


@dataclass(frozen=True)
class _Search:
    """The settings of a search for eigenvalues, checked."""

    k: int
    tol: float
    micro_batch: int | None
    max_products: int
    seed: int

    def __post_init__(self) -> None:
        whole_number("k", self.k)
        whole_number("max_products", self.max_products)
        if self.micro_batch is not None:
            whole_number("micro_batch", self.micro_batch)
        if not is_number(self.tol) or not 0 < self.tol < 1:
            raise ValueError(f"tol must be a number between 0 and 1, got {self.tol!r}")

    def check_fits(self, blocks: Sequence[Block]) -> None:
        for block in blocks:
            if self.k > block.size:
                raise ValueError(f"k={self.k} is larger than {block.name}, which has {block.size} parameters; lower k")


@dataclass(frozen=True)
class _Measured:
    """What is known of a block beside its eigenvalues."""

    operator: HessianOperator
    gradient: Tensor
    rayleigh_gradient: float


def _each_block(
    model: nn.Module,
    loss: Loss,
    batch: Any,
    layers: str | Sequence[str] | None,
    search: _Search,
    keep: Callable[[Block, _Measured, Eigenpairs], None],
) -> dict[str, Any]:
    """Measure block after block, hand each to ``keep``, and tell how it was measured."""
    blocks = select_blocks(model, layers)
    search.check_fits(blocks)
    check_model(model)
    with twice_differentiable_attention(model) as attention, progress(len(blocks), "hessian") as advance:
        on_batch = LossOnBatch(model, loss, batch, search.micro_batch)
        for block in blocks:
            _measure(HessianOperator(on_batch, block), search, keep)
            advance(1)
    return {
        "loss": on_batch.value,
        "attention": attention,
        "micro_batches": len(on_batch.parts),
        "memory_vectors": memory_vectors(search.k),
    }


def _measure(operator: HessianOperator, search: _Search, keep: Callable[[Block, _Measured, Eigenpairs], None]) -> None:
    """Measure a block; its vectors and its graph are gone when this returns."""
    operator.check()
    gradient = operator.gradient()
    shift, along = _shift(operator.product, gradient, search.seed)
    found = largest_eigenpairs(
        operator.product,
        operator.block.size,
        search.k,
        tol=search.tol,
        shift=shift,
        max_products=search.max_products,
        like=gradient,
        seed=search.seed,
    )
    keep(operator.block, _Measured(operator, gradient, along), found)


def _without_vectors(found: Eigenpairs) -> Eigenpairs:
    return replace(found, vectors=torch.empty(0))


def _shift(product: Callable[[Tensor], Tensor], g: Tensor, seed: int) -> tuple[float, float]:
    """A lower bound of ``lambda_0``: the quotient along g, or along H g where that is small; and the one along g."""
    start = g
    if not bool((g != 0).any()):
        start = torch.from_numpy(np.random.default_rng(seed).standard_normal(len(g))).to(g)
    image = product(start)
    along = _quotient(start, image)
    size = float(torch.linalg.vector_norm(image) / torch.linalg.vector_norm(start))
    further = _quotient(image, product(image)) if 0.1 * size > along else 0.0
    return max(along, further, 0.0), along if start is g else math.nan


def _quotient(v: Tensor, Hv: Tensor) -> float:
    return float(v @ Hv) / float(v @ v)


def _summary(
    block: Block, measured: _Measured, found: Eigenpairs, rank: int, trace_samples: int, seed: int
) -> dict[str, Any]:
    g, V, product = measured.gradient, found.vectors, measured.operator.product
    trace, trace_se = trace_estimate(product, V, found.values, trace_samples, seed)
    core = core_of(block, g, rank)
    inside = core_part(block, g, core)
    outside = matrix_part(block, g) - inside
    chi, chi_bulk = dominant_share(g, V)
    has_core = core.size > 0
    return {
        "layer": block.name,
        "parameters": block.size,
        "k": len(found.values),
        "rank": rank,
        "gradient_norm": float(torch.linalg.vector_norm(g)),
        "trace": trace,
        "trace_se": trace_se,
        "chi": chi,
        "chi_bulk": chi_bulk,
        "null_chi": math.sqrt(len(found.values) / block.size),
        "rayleigh_gradient": measured.rayleigh_gradient,
        "rayleigh_core": _along(product, inside, g),
        "rayleigh_bulk": _along(product, outside, g),
        "overlap": core_overlap(block, V, core) if has_core else math.nan,
        "null_overlap": core.dims / block.size if has_core else math.nan,
        "products": measured.operator.products,
        "converged": bool(found.converged.all()),
    }


def _along(product: Callable[[Tensor], Tensor], part: Tensor, g: Tensor) -> float:
    """The Rayleigh quotient along a part of the gradient, NaN where that is nothing but rounding."""
    rounding = 8 * torch.finfo(g.dtype).eps * float(torch.linalg.vector_norm(g))
    if float(torch.linalg.vector_norm(part)) <= rounding:
        return math.nan
    return _quotient(part, product(part))


def _eigenvalues(pairs: Sequence[tuple[Block, Eigenpairs]], about: dict[str, Any]) -> pd.DataFrame:
    rows = [
        {"layer": block.name, "index": index, "eigenvalue": value, "residual": residual, "converged": bool(converged)}
        for block, found in pairs
        for index, (value, residual, converged) in enumerate(
            zip(found.values, found.residuals, found.converged, strict=True)
        )
    ]
    return to_table(rows, about)
