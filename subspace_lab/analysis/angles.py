"""How subspaces turn: over training and from block to block.

Legend: ``S1, S2 (m, r)`` bases; ``theta`` principal angles between their spans.
"""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from subspace_lab.analysis.arguments import check_rank
from subspace_lab.analysis.columns import Columns
from subspace_lab.analysis.frame import Basis, Frame, narrow
from subspace_lab.analysis.sweep import sweep
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

    def add(self, frame: Frame, columns: Columns) -> None:
        """Add the comparisons with the previous and the first capture and with the previous block."""
        if frame.S is not None:
            for comparison, basis in (("previous", frame.stale(1)), ("first", frame.past.first)):
                if basis is not None:
                    self._add(frame, columns, comparison, frame.S, basis, frame.layer.name)
        other = frame.neighbour
        if other is not None and frame.residual_basis is not None and other.residual_basis is not None:
            reference = Basis(frame.step, other.residual_basis, other.num_determined)
            if frame.residual_basis.shape[0] == reference.S.shape[0]:
                self._add(frame, columns, "depth", frame.residual_basis, reference, other.layer.name)

    def _add(self, frame: Frame, columns: Columns, comparison: str, S: Tensor, basis: Basis, layer: str) -> None:
        rank = min(self.rank, S.shape[1], basis.S.shape[1], frame.num_determined, basis.num_determined)
        S, reference = narrow(S, rank), narrow(basis.S, rank)
        theta = principal_angles(reference, S)
        side = (frame.layer.residual_side if comparison == "depth" else None) or frame.layer.side
        columns.add(
            1,
            step=frame.step, reference_step=basis.step, layer=frame.layer.name, reference_layer=layer,
            comparison=comparison, side=side, depth=frame.layer.depth, kind=frame.layer.kind, rank=self.rank,
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
        ValueError: If the rank is no positive integer or larger than every layer.
        RunError: If the run is not sound.
    """
    return sweep(run, [Angles(check_rank(run, rank))], executor)["angles"]
