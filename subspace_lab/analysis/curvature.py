"""How steep the subspace estimation error is at a stale basis.

Legend: ``S (m, r)`` stale basis; ``C = G G^T``; ``dF/dS = -2 (I - S S^T) C S (m, r)``.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from subspace_lab._checks import whole_number, whole_numbers
from subspace_lab.analysis.columns import Columns
from subspace_lab.analysis.layer_step import LayerStep
from subspace_lab.analysis.pass_over_snapshots import pass_over_snapshots
from subspace_lab.analysis.ranks import check_rank
from subspace_lab.numerics import gram, gram_singular_values, null_tangent, subspace_error_tangent
from subspace_lab.runs import Run

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Curvature:
    """The measure behind `curvature`."""

    rank: int
    top: int
    lags: tuple[int, ...]
    table = "curvature"
    columns = (
        "step", "basis_step", "lag_steps", "layer", "depth", "kind", "rank", "index",
        "singular_value", "normalized", "null_noise",
    )  # fmt: skip
    first_columns = 0
    residual = False

    @property
    def num_vectors(self) -> int:
        """The rank."""
        return self.rank

    @property
    def max_lag(self) -> int:
        """The longest lag."""
        return max(self.lags)

    def add(self, at: LayerStep, columns: Columns) -> None:
        """Add the leading singular values at each stale basis."""
        for lag in self.lags:
            stale = at.stale(lag)
            if at.C is None or stale is None:
                continue
            rank = min(self.rank, at.layer.largest_rank)
            S = stale.S[:, :rank].to(at.C.dtype)
            tangent = subspace_error_tangent(S, at.image(lag)[:, :rank]).double()
            sigma = gram_singular_values(gram(tangent, "right"))[: self.top].numpy()
            null = null_tangent(rank, at.layer.m, at.layer.n, self.top)
            columns.add(
                len(sigma),
                step=at.step, basis_step=stale.step, lag_steps=at.step - stale.step, layer=at.layer.name,
                depth=at.layer.depth, kind=at.layer.kind, rank=self.rank, index=np.arange(len(sigma)),
                singular_value=sigma, normalized=sigma / at.total if at.total > 0 else np.nan,
                null_noise=null + (0.0,) * (len(sigma) - len(null)),
            )  # fmt: skip


def curvature(
    run: Run,
    *,
    rank: int | None = None,
    top: int = 20,
    lags: int | Iterable[int] = (1,),
    executor: Executor | None = None,
) -> pd.DataFrame:
    """Leading singular values of the derivative of the subspace error, ``-2 (I - S S^T) C S``, at a stale basis.

    At the fresh basis the derivative is zero, so the values depend on how stale the basis is: ``lag_steps`` is part
    of what they mean. ``normalized`` divides by ``||G||_F^2``, which makes layers and steps comparable; raw values
    mostly follow the gradient's norm. ``null_noise`` is the normalized value that Gaussian noise gives at a basis
    chosen blindly: small values alone do not show a flat landscape.

    Args:
        run: A run of ``keep="full"`` or ``"gram"``; other runs give an empty table.
        rank: Rank r of the basis; None for a quarter of the median m.
        top: How many singular values per layer and step.
        lags: Ages of the basis, in captures, or a single one.
        executor: Spreads the layers.

    Returns:
        One row per (step, layer, lag, index): step, basis_step, lag_steps, layer, depth, kind, rank, index (0 the
        largest), singular_value, normalized, null_noise.

    Raises:
        ValueError: If rank, top or a lag is smaller than 1, the rank is larger than every layer, or lags is
            empty.
        RunError: If the run is not sound.
        TypeError: If `run` is not a run.
    """
    checked = whole_numbers("lag", lags)
    if not checked:
        raise ValueError("lags is empty; the derivative is zero at the fresh basis, give at least one lag")
    measure = Curvature(check_rank(run, rank), whole_number("top", top), checked)
    return pass_over_snapshots(run, [measure], executor)["curvature"]
