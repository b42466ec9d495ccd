"""Rules that are not part of this package: they work on copies, and the bases that they return are checked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from subspace_lab.optim.rules.base import Context, Rule

_ORTHONORMAL = 1e-2  # how far S^T S may be off the identity: rounding to bfloat16 is not refused


class Guarded:
    """A rule whose answer is an orthonormal basis of the expected shape, or one line that says what it is.

    torch would broadcast a column, a complex basis would lose its imaginary part, and one that is not orthonormal would
    scale every step. The product of the two bases, which a rule may give beside the new one, is not relied on.

    Args:
        rule: Somebody's.
    """

    def __init__(self, rule: Rule) -> None:
        self._rule = rule

    def needs_all(self, context: Context) -> bool:  # noqa: ARG002
        """See `ShippedRule.needs_all`: it knows of no processes."""
        return True

    def first(self, G: Tensor, rank: int, context: Context) -> Tensor:
        """See `Rule.first`."""
        return self._checked(self._rule.first(G.clone(), rank, context), (G.shape[0], rank), G.dtype)

    def refresh(self, S: Tensor, G: Tensor, context: Context) -> Tensor:
        """See `Rule.refresh`."""
        found = self._rule.refresh(S.clone(), G.clone(), context)
        return self._checked(found[0] if isinstance(found, tuple) and len(found) == 2 else found, S.shape, S.dtype)

    def _checked(self, found: Any, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        gave = f"the rule {type(self._rule).__name__} gave"
        got = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        if got != f"shape {tuple(shape)}":
            raise ValueError(f"{gave} {got} where a basis of shape {tuple(shape)} is expected")
        if not found.is_floating_point():
            raise ValueError(f"{gave} {found.dtype} where a basis of floating-point numbers is expected")
        S: Tensor = found.to(dtype)
        off = float((S.mT @ S - torch.eye(S.shape[1], dtype=dtype, device=S.device)).abs().max())
        if not off <= _ORTHONORMAL:  # NaN is not
            raise ValueError(
                f"{gave} a basis S that is not orthonormal, S^T S is up to {off:.2g} off the identity; "
                "torch.linalg.qr(S).Q is an orthonormal one of the same space"
            )
        return S
