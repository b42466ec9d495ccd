"""The terms of Booster and Panacea to first order: products with the Hessian of the harmful loss, of two signs.

Legend: ``h`` the loss of harmful rows with gradient ``g_h`` and Hessian ``H``; ``u = g_h / ||g_h||``; ``a`` the size of
the shift of the weights. ``H u`` is the gradient of ``||g_h||``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from subspace_lab.analysis.loss.attention import twice_differentiable_attention
from subspace_lab.analysis.loss.blocks import select_blocks
from subspace_lab.analysis.loss.operator import HessianOperator, LossOnBatch
from subspace_lab.studies.safety.context import StepContext
from subspace_lab.studies.safety.stages import DEFENSES

if TYPE_CHECKING:
    import pandas as pd

SIZES = (1.0, 0.1, 0.01)
COLUMNS = ("term", "size", "cosine", "relative_error", "norm_ratio", "cos_norm_gradient")
_TERMS: dict[str, tuple[str, float]] = {"booster": ("alpha", 1.0), "panacea": ("rho", -1.0)}  # its size, its sign


def term_table(
    model: nn.Module, loss: Callable[[nn.Module, Any], Tensor], batch: Any, *, sizes: Sequence[float] = SIZES
) -> pd.DataFrame:
    """The terms that Booster and Panacea add to a gradient, beside what they are to first order.

    Booster adds ``g_h(w) - g_h(w - a u)`` (arXiv 2409.01586), Panacea ``-(g_h(w + a u) - g_h(w))`` (arXiv 2501.18100),
    each times its weight. To first order in `a` these are ``a H u`` and ``-a H u``: a step against the first descends
    ``||g_h||``, one against the second ascends it. The products are by double backward
    (`subspace_lab.analysis.loss.operator.HessianOperator`), the terms are what the shipped defenses return.

    Args:
        model: At the weights to look at; left as it is.
        loss: ``loss(model, batch)``, of harmful rows.
        batch: Those rows.
        sizes: Sizes `a` of the shift, in units of the weights' norm, positive.

    Returns:
        One row per term and size: term, size, cosine (of the term and its first order), relative_error (the norm of
        their difference over that of the first order), norm_ratio (of their norms), cos_norm_gradient (of the term and
        ``H u``: positive where the step descends the norm of the harmful gradient).

    Raises:
        ValueError: If a size is not positive, the gradient is zero, or the loss has no second derivative.
    """
    import pandas as pd

    if bad := [size for size in sizes if not size > 0]:
        raise ValueError(f"the sizes of a shift are positive, got {bad[0]:g}")
    block = select_blocks(model, None)[0]
    with twice_differentiable_attention(model):
        operator = HessianOperator(LossOnBatch(model, loss, batch, None), block)
        g = operator.gradient()
        if not float(g.norm()) > 0:
            raise ValueError("the gradient of the harmful loss is zero here, so that no shift along it is defined")
        Hu = operator.product(g / g.norm())
    rows = []
    for name, (option, sign) in _TERMS.items():
        for size in sizes:
            term = _term(name, {option: size, "lam": 1.0}, model, block.parameters, loss, batch).to(Hu)
            first = sign * size * Hu
            rows.append({
                "term": name, "size": size, "cosine": _cosine(term, first),
                "relative_error": float((term - first).norm() / first.norm()),
                "norm_ratio": float(term.norm() / first.norm()), "cos_norm_gradient": _cosine(term, Hu),
            })  # fmt: skip
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _term(
    name: str,
    options: dict[str, float],
    model: nn.Module,
    parameters: Sequence[Tensor],
    loss: Callable[[nn.Module, Any], Tensor],
    batch: Any,
) -> Tensor:
    """What the defense adds to a user gradient of zero, flat."""

    def losses(kind: str, _loss: object) -> Iterable[Tensor]:
        yield loss(model, batch) if kind == "harm" else torch.stack([p.sum() for p in parameters]).sum() * 0.0

    found = DEFENSES[name](**options).gradient(StepContext(parameters, losses))
    whole = [torch.zeros_like(p) if part is None else part for part, p in zip(found, parameters, strict=True)]
    return torch.cat([part.detach().reshape(-1) for part in whole])


def _cosine(a: Tensor, b: Tensor) -> float:
    return float((a @ b) / (a.norm() * b.norm()))
