"""Whether the top spaces of safety, user and harm gradients are the same ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from subspace_lab._names import names_of, raw_parameters
from subspace_lab.studies.safety.referee.updates import SHARE, overlap_table

if TYPE_CHECKING:
    import pandas as pd


def gradient_overlaps(
    model: nn.Module,
    losses: Mapping[str, Callable[[], Tensor]],
    *,
    share: float = SHARE,
    rank: int | None = None,
) -> pd.DataFrame:
    """Overlaps of the top spaces of gradients at the weights that a model has now.

    Bases are top left singular spaces on the shorter side of a matrix, as `subspace_lab.angles` has them, so that a
    pair can be compared with how a gradient's own space turns over time.

    Args:
        model: The model; its gradients and weights are left as they are.
        losses: ``{"safety": f, "user": f, "harm": f}``: functions of nothing, each a scalar loss with its graph.
        share: Of a gradient's energy that its space holds, in (0, 1]; dimensions then differ.
        rank: Dimensions of all spaces instead.

    Returns:
        The table of `subspace_lab.studies.safety.referee.updates.overlap_table`; pairs are called ``safety-user``.

    Raises:
        ValueError: If `share` or `rank` is out of its range, or fewer than two losses are given.
    """
    if len(losses) < 2:
        raise ValueError(f"overlaps are those of two gradients or more, got losses of {', '.join(losses) or 'none'}")
    raws = {raw: parameter for raw, parameter in raw_parameters(model) if parameter.requires_grad}
    names = names_of(model, raws)
    gradients: dict[str, dict[str, Tensor]] = {}
    for kind, loss in losses.items():
        found = torch.autograd.grad(loss(), list(raws.values()), allow_unused=True)
        gradients[kind] = {
            names[raw]: torch.zeros_like(parameter) if gradient is None else gradient
            for (raw, parameter), gradient in zip(raws.items(), found, strict=True)
        }
    return overlap_table(gradients, share=share, rank=rank)
