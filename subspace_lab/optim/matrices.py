"""Parameters and gradients as oriented matrices, and their columns' norms.

Legend: W parameter, G gradient, both ``(m, n)``, oriented so that ``m <= n`` unless a side is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from subspace_lab.optim.orientation import is_right, is_stack, num_rows
from subspace_lab.optim.rounding import add_rounded
from subspace_lab.optim.shards import lies_of, side_of
from subspace_lab.optim.whole import WHOLE, Whole, local

_BLOCK = 1 << 18  # entries squared at once


@dataclass
class Matrix:
    """One matrix of a parameter, with its gradient.

    Attributes:
        part: The parameter, or its piece, in its own shape; a view.
        W: The same as an oriented matrix (m, n); a view, or a copy if `part` is not a matrix in memory.
        G: Its gradient (m, n), in the dtype of the products.
        right: Whether W is the transpose.
        number: Which of the parameter's matrices it is.
        lies: Whether all three are whole; where they are distributed, they are the parts that this process holds.
    """

    part: Tensor
    W: Tensor
    G: Tensor
    right: bool
    number: int
    lies: Whole

    def target(self, dtype: torch.dtype, decay: float) -> tuple[Tensor, float]:
        """Where a step is to be added up.

        Args:
            dtype: Of the products.
            decay: Factor on the parameter.

        Returns:
            W itself and the decay if it can be updated in place, else an empty matrix and 0; then `finish` adds it.
            bfloat16 is never updated in place: every addition would round, and lose what is small.
        """
        same = self.W.dtype == dtype and dtype != torch.bfloat16
        in_place = same and self.W.data_ptr() == self.part.data_ptr()
        return (self.W, decay) if in_place else (torch.empty_like(self.W, dtype=dtype), 0.0)

    def finish(self, target: Tensor, decay: float, rounding: torch.Generator | None = None) -> None:
        """Add a step that was added up aside, with one rounding.

        Args:
            target: From `target`; nothing is left to do if it is W.
            decay: Factor on the parameter.
            rounding: Source of stochastic rounding, None for rounding to nearest.
        """
        if target is self.W:
            return
        update = (target.mT if self.right else target).reshape(self.part.shape)
        add_rounded(self.part, update, decay, rounding)


def product_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of matrix products for parameters of this dtype: their own, float32 for float16."""
    return dtype if dtype in {torch.float32, torch.float64, torch.bfloat16} else torch.float32


def exact_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of bases and moments for parameters of this dtype: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def state_dtype(group: Mapping[str, Any], dtype: torch.dtype) -> torch.dtype:
    """The dtype of basis and moments: as asked for, else float32, or float64 for parameters of such numbers.

    Args:
        group: With ``state_dtype``.
        dtype: The parameter's; if it is complex, so is the state, of parts of that precision.

    Returns:
        The dtype.
    """
    exact = exact_dtype(dtype.to_real() if dtype.is_complex else dtype)
    asked: torch.dtype = getattr(torch, group["state_dtype"]) if group["state_dtype"] else exact
    return asked.to_complex() if dtype.is_complex else asked


def may_overlap(p: Tensor) -> bool:
    """Whether two entries of a tensor may be the same number in memory, as after ``expand``; sparse ones do not say."""
    end = 0
    for stride, size in sorted(zip(p.stride(), p.shape, strict=True)):
        if size > 1 and stride <= end:
            return p.numel() > 0
        end += stride * max(0, size - 1)
    return False


def lie_alike(first: Tensor, *others: Tensor) -> bool:
    """Whether tensors of one shape have one dtype and the same entries at the same places, without gaps between them.

    Args:
        first: Tensor.
        others: Tensors of its shape.

    Returns:
        What a kernel that walks through memory needs to know.
    """
    if any(other.dtype != first.dtype for other in others):
        return False
    if first.is_contiguous():
        return all(other.is_contiguous() for other in others)
    strides, end = first.stride(), 1
    if any(other.stride() != strides for other in others):
        return False
    for stride, size in sorted(zip(strides, first.shape, strict=True)):
        if size > 1 and stride != end:
            return False
        end *= size
    return True


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """`Tensor.to`, without its cost where there is nothing to do: it is called a dozen times per matrix and step."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def pieces(p: Tensor, grad: Tensor, group: dict[str, Any]) -> Iterator[Matrix]:
    """The matrices that a parameter is made of.

    Args:
        p: Parameter.
        grad: Its gradient, dense; of a distributed parameter the part that this process holds.
        group: With ``side`` and ``splits``.

    Yields:
        Each with its gradient; of a distributed stack those that this process holds. Where `Whole.moves`, they are
        copies, to be brought back by `Whole.put_together`, and all processes take part.
    """
    splits, dtype, lies = group["splits"], product_dtype(p.dtype), lies_of(p, group)
    rows = num_rows(p.shape, splits) // splits
    own = p if lies is WHOLE else local(p)
    right = is_right(rows, p.numel() // (rows * splits), side_of(p, group))
    stacked: Iterable[tuple[Tensor, Tensor]] = [(own, grad)]
    if lies.moves:
        stacked = zip(lies.apart(own), lies.apart(grad), strict=True)
    elif splits > 1:
        stacked = zip(*(_parts(x, rows, splits, p.shape) for x in (own, grad)), strict=True)
    for number, (part, gradient) in enumerate(stacked, lies.first):
        W, G = (part, gradient) if part.dim() == 2 else (part.flatten(1), gradient.flatten(1))
        yield Matrix(part, W.mT if right else W, cast(G.mT if right else G, dtype), right, number, lies)


def _parts(tensor: Tensor, rows: int, splits: int, shape: tuple[int, ...]) -> Iterator[Tensor]:
    """Views of the matrices of a parameter or a gradient, of the whole's shape."""
    for stacked in tensor.unbind() if is_stack(shape, splits) else (tensor,):
        if splits == shape[0] and stacked is not tensor:
            yield stacked
        else:
            yield from torch.split(stacked, rows)


def squared_columns(X: Tensor) -> Tensor:
    """``|X_:j|^2`` for every column (n,), in float32 or better.

    Along columns that lie contiguous in memory torch's own norm is fastest; across them it is many times slower than
    squaring and adding block by block, which stays in the cache and needs no full-size temporary.

    Args:
        X: Matrix (m, n).

    Returns:
        Squared norms (n,), float64 for float64.
    """
    exact, (m, n) = exact_dtype(X.dtype), X.shape
    if X.stride(0) == 1:
        width = n if X.dtype == exact else max(1, _BLOCK // max(1, m))
        norms = [torch.linalg.vector_norm(block, dim=0, dtype=exact) for block in torch.split(X, width, 1)]
        return (norms[0] if len(norms) == 1 else torch.cat(norms)).square_()
    rows = max(1, _BLOCK // max(1, n))
    sums = [_summed_squares(block, exact) for block in (torch.split(X, rows) if m > rows else (X,))]
    return sums[0] if len(sums) == 1 else torch.stack(sums).sum(0)


def _summed_squares(block: Tensor, exact: torch.dtype) -> Tensor:
    squares = block * block if block.dtype == exact else block.to(exact).square_()
    return squares.sum(0)
