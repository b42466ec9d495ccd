"""Fira (arXiv 2410.01623): GaLore with the discarded part of the gradient recovered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from subspace_lab.optim.subspace_adam import SubspaceAdam


class Fira(SubspaceAdam):
    """`GaLore` plus the residual, each column scaled as Adam scaled that column of the core.

    ``L = (G - S A) diag(phi)``, ``phi_j = |O_:j| / |A_:j|``, and a limiter: ``||L||`` grows
    by at most ``zeta`` per step. Full-rank information reaches the weights at the memory of GaLore. It rests on an
    observation: the scaling factors of low-rank and full-rank training are alike.

    Args:
        params: Parameters or groups; a group with a ``rank`` is optimized in a subspace, one without is AdamW.
        lr: Learning rate; the whole step, recovered part included, is ``scale`` (0.25) of it.
        options: ``recovery_scale``, ``zeta``, ``limiter`` and the shared ones; see `Options`.

    State of an m x n matrix (``m <= n``): basis (m, r), two moments (r, n) and one number: ``mr + 2nr + 1`` numbers.
    A step costs two products with the basis and one pass over the gradient; a refresh what GaLore's does.

    Limitations: those of GaLore's refresh. The limiter is a ratchet: it starts at the residual of the own-space basis,
    the smallest there is. Columns that the core misses are not recovered, since their factor would be noise.
    """

    parts = ("svd", "keep", "scaled")
    changed: ClassVar[Mapping[str, Any]] = {"scale": 0.25}
