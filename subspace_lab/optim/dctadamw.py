"""DCT-AdamW (arXiv 2505.17967): the cosines that hold most of the gradient's energy, with error feedback."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from subspace_lab.optim.subspace_adam import SubspaceAdam


class DCTAdamW(SubspaceAdam):
    """Adam in the space of r columns of one fixed cosine transform, chosen by the gradient at every refresh.

    The columns that hold most of the energy of ``C G`` are taken, so that nothing is decomposed and only r indices are
    kept. Columns of one orthogonal matrix overlap fully or not at all: the rotation of the moments by
    ``R = S^T S_old`` keeps those of the columns that stay, and transport, projection-aware, is the same. What the
    projection loses, ``G - S S^T G``, is added to the next gradient; `SubspaceAdam` with ``rule="dct"`` and
    ``recovery="none"`` is the algorithm without this error feedback, and without its memory. Against `LDAdam` no QR and
    no products; against `GaLore` no eigenvectors, but of all spaces of rank r only those of cosines.

    Args:
        params: Parameters or groups; a group with a ``rank`` is optimized in a subspace, one without is AdamW.
        lr: Learning rate.
        options: ``transport`` and the shared ones; see `Options`. ``update_interval`` is 1.

    State of an m x n matrix (``m <= n``): r indices (int32), two moments (r, n), error (m, n): ``2nr + mn`` numbers and
    ``4r`` bytes.
    A step costs three transforms of n columns of length m with its refresh, two without.

    Limitations: written after the paper, not compared with the authors' package. Columns are ranked by their sum of
    squares; the error is kept in float32 (float64 for float64 parameters), not quantized. Square matrices are projected
    from the right. Sharded along m, a refresh sums ``C G`` over the processes, which is as much as the gradient.
    """

    parts = ("dct", "transport", "residual")
    changed: ClassVar[Mapping[str, Any]] = {"update_interval": 1}
