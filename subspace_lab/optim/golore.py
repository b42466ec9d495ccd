"""GoLore (arXiv 2410.11289): GaLore first, random subspaces later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from subspace_lab.optim.subspace_adam import SubspaceAdam


class GoLore(SubspaceAdam):
    """`GaLore` until ``random_after`` steps were taken, uniformly random bases from then on.

    Near a minimum the gradient is mostly noise, its own top space is that of the noise, and GaLore need not converge; a
    random basis is unbiased and does. The paper's runs switch after the first 80 % of the steps.

    Args:
        params: Parameters or groups; a group with a ``rank`` is optimized in a subspace, one without is AdamW.
        lr: Learning rate; the step is ``scale`` (0.25) of it.
        options: ``random_after`` (a step; None never switches) and the shared ones; see `Options`.

    State of an m x n matrix (``m <= n``): basis (m, r) and two moments (r, n): ``mr + 2nr`` numbers.
    A step costs what GaLore's does; a refresh after the switch one QR of (m, r).

    Limitations: the step of the switch must be known beforehand. It takes effect at the first refresh after
    ``random_after``. Moments are kept as they are, as in GaLore.
    """

    parts = ("golore", "keep", "none")
    changed: ClassVar[Mapping[str, Any]] = {"scale": 0.25}
