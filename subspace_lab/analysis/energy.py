"""How much of a gradient's energy a subspace holds.

Legend: G oriented gradient (m, n); ``S (m, r)`` basis; ``C = G G^T``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from subspace_lab._checks import whole_numbers
from subspace_lab._text import count
from subspace_lab.analysis.columns import Columns
from subspace_lab.analysis.layer_step import LayerStep
from subspace_lab.analysis.notices import AnalysisNotice, level_of_caller
from subspace_lab.analysis.pass_over_snapshots import pass_over_snapshots
from subspace_lab.analysis.ranks import check_ranks
from subspace_lab.numerics import captured_energy, null_isotropic, null_noise
from subspace_lab.runs import Run

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Energy:
    """The measure behind `energy`."""

    ranks: tuple[int, ...]
    lags: tuple[int, ...]
    table = "energy"
    columns = (
        "step", "layer", "depth", "kind", "basis", "basis_step", "lag_steps", "rank", "m", "n",
        "ratio", "fraction", "null_isotropic", "null_noise", "numerical_rank",
    )  # fmt: skip
    first_columns = 0
    residual = False

    @property
    def num_vectors(self) -> int:
        """The largest rank, or none when only own spaces are asked for: their energy needs no basis."""
        return max(self.ranks) if self.lags else 0

    @property
    def max_lag(self) -> int:
        """The longest lag."""
        return max(self.lags, default=0)

    def add(self, at: LayerStep, columns: Columns) -> None:
        """Add the own space's rows, then those of the stale ones."""
        own = (at.energies.cumsum(0) / (at.total or np.nan)).numpy()
        self._add(at, columns, own, at.num_determined, basis="own", basis_step=at.step)
        for lag in self.lags:
            stale = at.stale(lag)
            if at.C is not None and stale is not None:
                total = at.total if at.total > 0 else np.nan
                held = captured_energy(stale.S.to(at.C.dtype), at.image(lag), total).numpy()
                self._add(at, columns, held, stale.num_determined, basis="stale", basis_step=stale.step)

    def _add(
        self, at: LayerStep, columns: Columns, held: np.ndarray, determined: int, *, basis: str, basis_step: int
    ) -> None:
        m, n = at.layer.m, at.layer.n
        fraction = np.clip([held[min(rank, len(held)) - 1] for rank in self.ranks], 0, 1)
        columns.add(
            len(self.ranks),
            step=at.step, layer=at.layer.name, depth=at.layer.depth, kind=at.layer.kind,
            basis=basis, basis_step=basis_step, lag_steps=at.step - basis_step, rank=self.ranks, m=m, n=n,
            ratio=np.sqrt(fraction), fraction=fraction,
            null_isotropic=[null_isotropic(min(rank, n), m) for rank in self.ranks],
            null_noise=[null_noise(rank, m, n) for rank in self.ranks],
            numerical_rank=determined,
        )  # fmt: skip


def energy(
    run: Run,
    *,
    ranks: int | Iterable[int] | None = None,
    lags: int | Iterable[int] = (1, 2, 4, 8, 16),
    executor: Executor | None = None,
) -> pd.DataFrame:
    """Share of each gradient that top-r subspaces hold, their own and those of earlier captures.

    ``ratio = ||S^T G||_F / ||G||_F`` (unsquared, as in arXiv 2510.01878, Fig. 1) and ``fraction = ratio^2``. With
    ``basis == "own"`` S is the top-r left singular space of G itself; with ``"stale"`` it is that of the snapshot
    ``lag`` captures earlier, whose loss over ``lag_steps`` is what a refresh interval rests on. Compare ``fraction``
    with its nulls (and ``ratio`` with their roots): ``null_isotropic`` = r/m for bases chosen without looking at G,
    ``null_noise`` for own spaces. They reject isotropic noise and no more: gradient noise is not isotropic, so what
    is signal needs split batches.

    Args:
        run: A run; with ``keep="full"`` or ``"gram"`` all rows, with ``"topk"`` and ``"stats"`` the own ones.
        ranks: Ranks r, or a single one; a rank above a layer's m (or n, if that is smaller) means m there (the table
            keeps the rank as asked). None for m/64 to m/2 of the median layer.
        lags: Ages of stale bases, in captures, or a single one; empty for none.
        executor: Spreads the layers, for example a ``ProcessPoolExecutor``.

    Returns:
        One row per (step, layer, basis, lag, rank): step, layer, depth, kind, basis, basis_step, lag_steps, rank, m,
        n, ratio, fraction, null_isotropic, null_noise, numerical_rank. NaN for gradients that are all zeros. Where
        ``numerical_rank``, of the gradient that the basis is from, is below the rank, the further directions of the
        basis are arbitrary, and a stale energy counts them; a notice says so.

    Raises:
        ValueError: If a rank or lag is smaller than 1, or a rank is larger than every layer.
        RunError: If the run is not sound.
        TypeError: If `run` is not a run.
    """
    measure = Energy(check_ranks(run, ranks), whole_numbers("lag", lags))
    table = pass_over_snapshots(run, [measure], executor)["energy"]
    warn_of_undetermined(table)
    return table


def warn_of_undetermined(table: pd.DataFrame) -> None:
    """Say it in a notice when stale energies rest on directions that their gradient does not determine.

    Args:
        table: From `energy`.
    """
    if (text := undetermined(table)) is not None:
        warnings.warn(text, AnalysisNotice, stacklevel=level_of_caller())


def undetermined(table: pd.DataFrame) -> str | None:
    """Which stale energies rest on directions that their gradient does not determine.

    Args:
        table: An energy table, of this release or of one that had no column ``numerical_rank``.

    Returns:
        A sentence; None where there is nothing to say, or it is not known.
    """
    if "numerical_rank" not in table or table["numerical_rank"].dtype.kind not in "iuf":
        return None
    stale = table[table["basis"] == "stale"]
    columns = np.minimum(stale["rank"], np.minimum(stale["m"], stale["n"]))
    arbitrary = stale[(stale["numerical_rank"] < columns) & (columns < stale["m"])]  # m directions are the whole space
    if arbitrary.empty:
        return None
    lowest, layers = arbitrary.iloc[int(arbitrary["numerical_rank"].argmin())], arbitrary["layer"].nunique()
    return (
        f"of {len(stale)} stale energies {len(arbitrary)}, in {count(layers, 'layer')}, are of bases with more "
        f"directions than their gradient determines ({lowest['numerical_rank']} of {lowest['rank']} in "
        f"{lowest['layer']}): the others are arbitrary, and their share counts; see numerical_rank"
    )
