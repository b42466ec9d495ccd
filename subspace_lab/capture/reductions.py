"""What is kept of a gradient: four reductions, what can still be computed from each, and what it costs on disk.

A snapshot file is ``8 + H + sum of the tensors' bytes`` long, where H, the length of the safetensors header (about 100
bytes a tensor, names and metadata included), is the little-endian 64-bit integer in the file's first 8 bytes.
`snapshot_bytes` gives the sum. ``b`` below is the bytes of a number: 4, and 8 for float64 gradients.

Legend: ``G`` gradient as a matrix, oriented (m, n); ``C = G G^T`` (m, m).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from subspace_lab import numerics
from subspace_lab.numerics import (
    Side,
    default_side,
    flatten,
    gram_eigh,
    gram_singular_values,
    pack_symmetric,
    unpack_symmetric,
)

Reduction = Callable[[Tensor, Side], dict[str, Tensor]]


def full(gradient: Tensor, side: Side) -> dict[str, Tensor]:  # noqa: ARG001
    """The gradient itself, in its own dtype and shape.

    Everything can be computed from it, on either side, and things that are not functions of singular values and
    vectors (per-entry statistics, an optimizer's step).

    On disk: ``rows * cols`` numbers of the gradient's own size (2 bytes for bfloat16).

    Args:
        gradient: A tensor of two or more dimensions.
        side: Not used.

    Returns:
        ``gradient``: as it is.
    """
    return {"gradient": gradient}


def gram(gradient: Tensor, side: Side) -> dict[str, Tensor]:
    """``C = G G^T`` as a packed triangle; of a square layer those of both sides.

    Every left-subspace quantity is a function of C: singular values, bases of any rank, the energy in any subspace
    (stale ones too), principal angles, the curvature tangent. Lost are the other side of a layer that is not square
    and the signs of single entries. Half-precision gradients are multiplied in float32. Squaring costs half of the
    digits: singular values below 1e-3 of the largest are not to be trusted (float32), energies are.

    On disk: ``b m (m + 1) / 2``, twice that for a square layer.

    Args:
        gradient: A tensor of two or more dimensions.
        side: The side of the subspace.

    Returns:
        ``gram_left`` and / or ``gram_right``: packed by `subspace_lab.numerics.pack_symmetric`.
    """
    G = flatten(gradient)
    sides: tuple[Side, ...] = ("left", "right") if G.shape[0] == G.shape[1] else (side,)
    return {f"gram_{s}": pack_symmetric(numerics.gram(G, s)) for s in sides}


def topk(gradient: Tensor, side: Side, K: int) -> dict[str, Tensor]:
    """The top-K left singular basis and all singular values, by way of the Gram matrix in float64.

    From it come the spectrum with all its summaries, the energy of the gradient's own top-r space for every r, and
    principal angles up to rank K. There is no stale energy and no curvature: both need C outside of the basis.

    On disk: ``b (m min(K, rows, cols) + min(rows, cols))``.

    Args:
        gradient: A tensor of two or more dimensions.
        side: The side of the basis.
        K: Columns of the basis; at most ``min(rows, cols)`` are kept.

    Returns:
        ``basis``: (m, K) and ``singular_values``: (min(rows, cols),), both descending.
    """
    G = flatten(gradient)
    return _topk_of_gram(numerics.gram(_double(G), side), K, min(G.shape), gradient.dtype)


def stats(gradient: Tensor, side: Side) -> dict[str, Tensor]:  # noqa: ARG001
    """All singular values, by way of the Gram matrix in float64, and no basis.

    From it come the spectrum with all its summaries, norms, and the energy of the gradient's own top-r space for every
    r (``sum sigma_i^2`` over the first r). There are no angles, no stale energy and no curvature.

    On disk: ``b min(rows, cols)``.

    Args:
        gradient: A tensor of two or more dimensions.
        side: Not used: the singular values are the same on both.

    Returns:
        ``singular_values``: (min(rows, cols),), descending.
    """
    G = flatten(gradient)
    C = numerics.gram(_double(G), default_side(*G.shape))
    return {"singular_values": gram_singular_values(C).to(_kept_dtype(gradient.dtype))}


def reduction(keep: str) -> Reduction:
    """The reduction of a ``keep`` setting.

    Args:
        keep: ``"full"``, ``"gram"``, ``"topk:K"`` or ``"stats"``.

    Returns:
        A function of a gradient and a side.

    Raises:
        ValueError: If it is anything else.
    """
    if (K := _num_kept(keep)) is not None:
        return partial(topk, K=K)
    return {"full": full, "gram": gram, "stats": stats}[keep]


def follows_from_gram(keep: str, shape: tuple[int, int], side: Side, of: Side) -> bool:
    """Whether a reduction is a function of one Gram matrix, which adds over shards of the gradient's columns.

    Args:
        keep: The reduction.
        shape: Rows and columns of the gradient as a matrix.
        side: The side of the subspace.
        of: The side of the Gram matrix.

    Returns:
        False where the gradient itself is needed, or a Gram matrix of the other side.

    >>> [follows_from_gram(keep, (1376, 512), "right", "right") for keep in ("full", "gram", "topk:64", "stats")]
    [False, True, True, True]
    """
    square = shape[0] == shape[1]
    if _num_kept(keep) is not None:
        return side == of
    return {"full": False, "gram": side == of and not square, "stats": square or of == default_side(*shape)}[keep]


def part_of_gram(keep: str, shard: Tensor, of: Side) -> Tensor:
    """The Gram matrix of some columns of an oriented gradient; the sum over all of them is that of the gradient.

    Args:
        keep: A reduction that follows from it.
        shard: Rows (for ``"right"``) or columns (for ``"left"``) of the gradient; there may be none.
        of: The side of the Gram matrix.

    Returns:
        A triangle, packed by `subspace_lab.numerics.pack_symmetric`, in the precision of the reduction.
    """
    G = flatten(shard)
    return pack_symmetric(numerics.gram(G if keep == "gram" else _double(G), of))


def reduced_gram(
    keep: str, packed: Tensor, *, shape: tuple[int, int], side: Side, dtype: torch.dtype
) -> dict[str, Tensor]:
    """What a reduction keeps of a gradient, from its Gram matrix.

    Args:
        keep: A reduction that follows from it.
        packed: The sum of what `part_of_gram` returned.
        shape: Rows and columns of the gradient.
        side: The side of the subspace.
        dtype: Of the gradient.

    Returns:
        What the reduction returns for the gradient itself.
    """
    if keep == "gram":
        return {f"gram_{side}": packed}
    C = unpack_symmetric(packed)
    if (K := _num_kept(keep)) is not None:
        return _topk_of_gram(C, K, min(shape), dtype)
    return {"singular_values": gram_singular_values(C).to(_kept_dtype(dtype))}


def reduction_bytes(
    rows: int,
    cols: int,
    keep: str,
    *,
    side: Literal["auto", "left", "right"] = "auto",
    dtype: torch.dtype = torch.float32,
) -> int:
    """Bytes of the tensors that a reduction keeps of one layer at one step.

    Args:
        rows: Rows of the parameter.
        cols: Columns of the parameter, all dimensions but the first multiplied.
        keep: The reduction.
        side: The side of the subspace, ``"auto"`` for the shorter one.
        dtype: Of the gradient.

    Returns:
        The bytes.

    >>> [reduction_bytes(512, 1376, keep) for keep in ("full", "gram", "topk:64", "stats")]
    [2818048, 525312, 133120, 2048]
    """
    m = rows if (default_side(rows, cols) if side == "auto" else side) == "left" else cols
    shorter = min(rows, cols)
    b = _kept_dtype(dtype).itemsize
    if (K := _num_kept(keep)) is not None:
        return b * (m * min(K, shorter) + shorter)
    return {
        "full": dtype.itemsize * rows * cols,
        "gram": b * m * (m + 1) // (1 if rows == cols else 2),
        "stats": b * shorter,
    }[keep]


def snapshot_bytes(layers: Iterable[Mapping[str, Any]], keep: str, *, dtype: torch.dtype = torch.float32) -> int:
    """Bytes of all tensors in one snapshot: the file's length without the header.

    Args:
        layers: Rows of a layer table (rows, cols, side), for example ``run.manifest["layers"]``.
        keep: The reduction.
        dtype: Of the gradients.

    Returns:
        The bytes; layers that were missing or not finite in a step take none.
    """
    return sum(reduction_bytes(row["rows"], row["cols"], keep, side=row["side"], dtype=dtype) for row in layers)


@contextmanager
def full_precision(device: str) -> Iterator[None]:
    """Products in the precision of their operands: no autocast around them, and no TF32 or bfloat16 shortcut.

    Args:
        device: Type of the device on which the products are.

    Yields:
        Nothing; the settings are put back on the way out.
    """
    cuda, mkldnn = torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)
    backends: tuple[Any, ...] = (cuda,) if mkldnn is None else (cuda, mkldnn)
    name, exact = ("allow_tf32", False) if mkldnn is None else ("fp32_precision", "ieee")  # before torch 2.9, since
    before = [getattr(backend, name) for backend in backends]
    try:
        for backend in backends:
            setattr(backend, name, exact)
        with torch.autocast(device, enabled=False):
            yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            setattr(backend, name, value)


def _topk_of_gram(C: Tensor, K: int, shorter: int, dtype: torch.dtype) -> dict[str, Tensor]:
    values, S = gram_eigh(C, min(K, shorter))
    kept = _kept_dtype(dtype)
    return {"basis": S.to(kept), "singular_values": values.sqrt()[:shorter].to(kept)}


def _num_kept(keep: str) -> int | None:
    """K of ``"topk:K"``, None for the other reductions."""
    if keep in ("full", "gram", "stats"):
        return None
    if isinstance(keep, str) and (found := re.fullmatch(r"topk:([1-9][0-9]{0,8})", keep)):
        return int(found[1])
    raise ValueError(f"keep must be 'full', 'gram', 'topk:K' with K >= 1, or 'stats', got {keep!r}")


def _kept_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _double(G: Tensor) -> Tensor:
    return G.cpu().double() if G.device.type == "mps" else G.double()  # Apple's GPUs have no float64
