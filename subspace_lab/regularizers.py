"""Terms that are added to a loss: differentiable scalars of a model and a batch.

Legend: ``x_i`` row i of n inputs with d features; ``f`` the objective; ``a_i = x_i * df/dx_i`` its attributions; ``s``
the scores of the features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from subspace_lab._checks import check_choice, check_module, is_number


def attribution_alignment(
    model: nn.Module,
    inputs: Tensor,
    objective: Callable[[Any], Tensor],
    scores: Tensor | Sequence[float],
    *,
    gamma: float,
    form: Literal["paper", "released"] = "paper",
) -> Tensor:
    """How far a model's attributions are from scores of the features that are known beforehand (LAAT).

    ``gamma * mean_i MSE(a_i / ||a_i||, s / ||s||)`` over the rows whose attributions are not all zero, added to the
    loss of few labelled rows. It trades a second backward pass for knowledge that is in no row. A row's term is
    ``2 gamma / d (1 - cos(a_i, s))``: lengths have no part in it.

    Args:
        model: A differentiable model; it is called with the inputs once more.
        inputs: Rows (n, ...), floating-point. In the paper's form their features should be scaled to [0, 1]: a feature
            below its mean would turn the sign of its attribution, and scores have one sign for all rows.
        objective: What is attributed, a scalar from the model's output: the sum of the logits, not a loss.
        scores: Of the features, of the shape of a row; a positive one speaks for the objective.
        gamma: Weight of the term, at least 0; the authors' experiments have 100.
        form: ``"paper"``, or ``"released"`` for what the authors' code computes: in place of ``s`` the target of a
            row is ``sign(s) exp(|s|) * x_i``, which fits standardized inputs, too; rows without attributions count.

    Returns:
        A scalar to be added to the loss; 0 in the paper's form where no row has attributions.

    Raises:
        ValueError: If the shapes do not fit, a score or `gamma` is not a finite number, all scores are zero, or the
            objective is not a scalar that depends on the inputs.

    Reference: arXiv 2502.20268, the regularization term of the loss.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> _ = nn.init.ones_(model.weight)
    >>> round(attribution_alignment(model, torch.ones(3, 2), torch.sum, [1.0, 0.0], gamma=1.0).item(), 4)
    0.2929
    """
    check_module(model)
    check_choice("form", form, ("paper", "released"))
    if not (is_number(gamma) and gamma >= 0):
        raise ValueError(f"gamma must be a number of at least 0, got {gamma!r}")
    s = _checked_scores(inputs, scores)
    x = inputs.detach().requires_grad_(True)
    with torch.enable_grad():
        a = (x * _gradient(objective(model(x)), x)).flatten(1)  # (n, d)
        if form == "released":
            target = (s.sign() * s.abs().exp() * x.detach()).flatten(1)  # (n, d)
            error: Tensor = functional.mse_loss(functional.normalize(a), functional.normalize(target))
            return error * gamma
        lengths = torch.linalg.vector_norm(a, dim=1, keepdim=True)  # (n, 1)
        counts = lengths > 0
        directions = a / torch.where(counts, lengths, 1)
        errors = (directions - s.flatten() / torch.linalg.vector_norm(s)).square().mean(1, keepdim=True)
        term: Tensor = gamma * torch.where(counts, errors, 0).sum() / counts.sum().clamp(min=1)
        return term


def _checked_scores(inputs: Tensor, scores: Tensor | Sequence[float]) -> Tensor:
    if not (isinstance(inputs, Tensor) and inputs.is_floating_point() and inputs.dim() > 1 and len(inputs)):
        what = f"{inputs.dtype} of shape {tuple(inputs.shape)}" if isinstance(inputs, Tensor) else type(inputs).__name__
        raise ValueError(f"inputs must be rows of floating-point numbers (n, features), got {what}")
    try:
        s = torch.as_tensor(scores, dtype=inputs.dtype)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"scores must be numbers, one per feature, got {type(scores).__name__}: {error}") from error
    if s.shape != inputs.shape[1:]:
        raise ValueError(f"scores have shape {tuple(s.shape)}, a row of the inputs has {tuple(inputs.shape[1:])}")
    if s.device.type == "cpu":  # elsewhere looking at them would wait for the device
        norm = float(torch.linalg.vector_norm(s))
        if norm == 0 or not math.isfinite(norm):
            raise ValueError(f"scores must be finite and not all zero, their norm is {norm}")
    return s.detach().to(inputs.device)


def _gradient(value: Any, x: Tensor) -> Tensor:
    if not (isinstance(value, Tensor) and value.dim() == 0):
        what = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"objective must return a scalar, such as the sum of the logits, got {what}")
    gradient = torch.autograd.grad(value, x, create_graph=True, allow_unused=True)[0] if value.requires_grad else None
    if gradient is None:
        raise ValueError("objective does not depend on the inputs; return the sum of the logits of the model's output")
    return gradient
