"""LDAdam (arXiv 2410.16103): a new subspace at every step, and nothing lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from subspace_lab.optim.subspace_adam import SubspaceAdam


class LDAdam(SubspaceAdam):
    """Adam in a subspace that moves at every step by one block power iteration, with error feedback.

    The basis follows ``B = rho S Mh + (1 - rho) G`` by ``S+ = Q of QR(B B^T S)``; moments are transported,
    projection-aware; what the projection lost of the gradient and of the old moment,

        E = G - S A + beta1 / (1 - beta1) (S_old M_old - S S^T S_old M_old),

    is added to the next gradient (algorithm 1 of the paper). Against `GaLore` no SVD and no stale basis;
    it converges to what Adam would. It pays with the error, as large as the gradient. The released code hides it in
    ``p.grad``; here it is state, ``error``, since a buffer there is lost on resume and by ``zero_grad``.

    Args:
        params: Parameters or groups; a group with a ``rank`` is optimized in a subspace, one without is AdamW.
        lr: Learning rate.
        options: ``rho``, ``transport`` and the shared ones; betas are (0.908, 0.99) and ``update_interval`` is 1.

    State of an m x n matrix (``m <= n``): basis (m, r), two moments (r, n), error (m, n): ``mr + 2nr + mn`` numbers.
    A step costs six products with bases and a QR of (m, r).

    Limitations: the error makes the state larger than Adam's second moment alone, so memory is saved against Adam only
    for ranks well below m/2. Every step refreshes: several times slower than methods that do it now and then.
    """

    parts = ("power", "transport", "feedback")
    changed: ClassVar[Mapping[str, Any]] = {"betas": (0.908, 0.99), "update_interval": 1}
