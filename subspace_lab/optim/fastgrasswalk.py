"""FastGrassWalk: GrassWalk (arXiv 2510.01878) over cosines, with a basis of 4r bytes and no dense product."""

from __future__ import annotations

from subspace_lab.optim.subspace_adam import SubspaceAdam


class FastGrassWalk(SubspaceAdam):
    """Adam in a subspace that walks: every ``update_interval`` steps a few of its r cosines are swapped for others.

    The basis is ``S = D C^T P``, as in `FastGrassJump`; the signs D are drawn once, and at a refresh ``swaps`` of the
    r cosines, drawn at random, leave it for random others. The moments of those that stay are untouched, those of the
    new ones begin at zero: that is what transport makes of them. Against `GrassWalk` no direction turns by a little;
    ``swaps`` of r turn by 90 degrees, which is a move of root-mean-square angle ``pi/2 sqrt(swaps / r)``. The first
    basis is random, too. Against `FastGrassJump` the moments keep their meaning.

    Args:
        params: Parameters or groups; a group with a ``rank`` is optimized in a subspace, one without is AdamW.
        lr: Learning rate.
        options: ``swaps`` (as many as r and m - r allow), ``recovery_scale``, ``zeta``, ``limiter``, ``transport`` and
            the shared ones; see `Options`.

    State of an m x n matrix (``m <= n``): two moments (r, n), one number and r indices (int32): ``2nr + 1`` numbers and
    ``4r`` bytes.
    A step costs two transforms of n columns of length m, a refresh no product at all.

    Limitations: see `FastGrassJump`. A cosine that comes in takes a first step of ``(1 - beta1) / sqrt(1 - beta2)``
    times the usual length, 3.2 by default, since its moments begin at zero in the midst of training.
    """

    parts = ("trig_walk", "transport", "scaled")
