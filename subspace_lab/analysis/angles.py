"""How subspaces turn: over training and from block to block.

Legend: ``S1, S2 (m, r)`` bases; ``theta`` principal angles between their spans.
"""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from subspace_lab.analysis.columns import Columns
from subspace_lab.analysis.layer_step import Basis, LayerStep, narrow
from subspace_lab.analysis.pass_over_snapshots import pass_over_snapshots
from subspace_lab.analysis.ranks import check_rank
from subspace_lab.numerics import null_isotropic, overlap, principal_angles
from subspace_lab.runs import Run

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Angles:
    """The measure behind `angles`."""

    rank: int
    table = "angles"
    columns = (
        "step", "reference_step", "layer", "reference_layer", "comparison", "side", "depth", "kind", "rank",
        "mean_deg", "max_deg", "overlap", "chordal", "null_overlap",
    )  # fmt: skip
    max_lag = 1
    residual = True

    @property
    def num_vectors(self) -> int:
        """The rank."""
        return self.rank

    @property
    def first_columns(self) -> int:
        """The rank."""
        return self.rank

    def add(self, at: LayerStep, columns: Columns) -> None:
        """Add the comparisons with the previous and the first capture and with the previous block."""
        if at.S is not None:
            for comparison, basis in (("previous", at.stale(1)), ("first", at.past.first)):
                if basis is not None:
                    self._add(at, columns, comparison, at.S, basis, at.layer.name)
        other = at.neighbour
        if other is not None and at.residual_basis is not None and other.residual_basis is not None:
            reference = Basis(at.step, other.residual_basis, other.num_determined)
            if at.residual_basis.shape[0] == reference.S.shape[0]:
                self._add(at, columns, "depth", at.residual_basis, reference, other.layer.name)

    def _add(self, at: LayerStep, columns: Columns, comparison: str, S: Tensor, basis: Basis, layer: str) -> None:
        rank = min(self.rank, S.shape[1], basis.S.shape[1], at.num_determined, basis.num_determined)
        S, reference = narrow(S, rank), narrow(basis.S, rank)
        theta = principal_angles(reference, S)
        side = (at.layer.residual_side if comparison == "depth" else None) or at.layer.side
        columns.add(
            1,
            step=at.step, reference_step=basis.step, layer=at.layer.name, reference_layer=layer,
            comparison=comparison, side=side, depth=at.layer.depth, kind=at.layer.kind, rank=self.rank,
            mean_deg=float(theta.mean().rad2deg()), max_deg=float(theta.max().rad2deg()),
            overlap=overlap(reference, S), chordal=float(theta.sin().square().sum().sqrt()),
            null_overlap=null_isotropic(rank, S.shape[0]),
        )  # fmt: skip


def angles(run: Run, *, rank: int | None = None, executor: Executor | None = None) -> pd.DataFrame:
    """Principal angles between top-r spaces: over time (previous and first capture) and over depth.

    ``overlap = ||S1^T S2||_F^2 / r`` (arXiv 2401.06604), to be compared with ``null_overlap`` = r/m, that of two
    random spaces; ``chordal = sqrt(sum sin^2 theta)``. Over depth a layer is compared with the same layer of the
    previous block, on the side that lives in the residual stream (inputs of q, k, v, gate, up; outputs of o and
    down), where neighbouring blocks share coordinates; on the other side they are unrelated by construction.

    Args:
        run: A run of ``keep="full"``, ``"gram"`` or ``"topk:K"`` (which limits the rank to K); ``"stats"`` has no
            bases and gives an empty table. Depth rows need the Gram matrix of the residual side, which ``"gram"``
            keeps for square layers and wherever it is the smaller one.
        rank: Rank r; None for a quarter of the median m. A gradient with fewer singular directions that stand out of
            rounding has angles between those (the table keeps the rank as asked, ``null_overlap`` is that of the
            directions compared); one that is all zeros has none.
        executor: Spreads the layers.

    Returns:
        One row per comparison: step, reference_step, layer, reference_layer, comparison ("previous", "first" or
        "depth"), side, depth, kind, rank, mean_deg and max_deg (degrees), overlap, chordal, null_overlap.

    Raises:
        ValueError: If the rank is smaller than 1 or larger than every layer.
        RunError: If the run is not sound.
    """
    return pass_over_snapshots(run, [Angles(check_rank(run, rank))], executor)["angles"]
