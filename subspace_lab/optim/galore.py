"""GaLore (arXiv 2403.03507): Adam in the gradient's own top space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from subspace_lab.optim.subspace_adam import SubspaceAdam


class GaLore(SubspaceAdam):
    """Adam on ``A = S^T G``, S the top-r left singular vectors of the gradient every ``update_interval`` steps.

    ``W -= lr scale S O`` (algorithm 2 of the paper). Moments are kept as they are when the basis changes, although they
    then belong to other directions; what lies outside of the subspace is discarded. The simplest of the family and what
    the others are measured against. The signs of a new basis are those that agree with the old one.

    Args:
        params: Parameters or groups; a group with a ``rank`` is optimized in a subspace, one without is AdamW.
        lr: Learning rate; the step is ``scale`` (0.25) of it.
        options: The shared ones; see `Options`.

    State of an m x n matrix (``m <= n``): basis (m, r) and two moments (r, n): ``mr + 2nr`` numbers.
    A step costs two products with the basis; a refresh the eigenvectors of ``G G^T``, in float64, O(m^2 n + m^3).

    Limitations: a refresh is far dearer than a step. Directions outside of the top space are never learned between
    refreshes, and with a noisy gradient the top space is that of the noise. The released package projects square
    matrices from the right: ``side="right"`` in a group of square ones reproduces that.
    """

    parts = ("svd", "keep", "none")
    changed: ClassVar[Mapping[str, Any]] = {"scale": 0.25}
