"""All analyses of a run in one pass; `subspace_lab.analysis` has the function of each."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Executor
from typing import TYPE_CHECKING

from subspace_lab._checks import whole_number, whole_numbers
from subspace_lab.analysis.angles import Angles, angles
from subspace_lab.analysis.curvature import Curvature, curvature
from subspace_lab.analysis.energy import Energy, energy, warn_of_undetermined
from subspace_lab.analysis.pass_over_snapshots import Measure, pass_over_snapshots
from subspace_lab.analysis.ranks import check_rank, check_ranks
from subspace_lab.analysis.spectrum import Spectrum, SpectrumSummary, spectrum, spectrum_null, spectrum_summary
from subspace_lab.runs import Run

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["analyze", "angles", "curvature", "energy", "spectrum", "spectrum_null", "spectrum_summary"]


def analyze(
    run: Run,
    *,
    ranks: int | Iterable[int] | None = None,
    rank: int | None = None,
    lags: int | Iterable[int] = (1, 2, 4, 8, 16),
    top: int = 20,
    executor: Executor | None = None,
) -> dict[str, pd.DataFrame]:
    """`energy`, `spectrum`, `angles` and `curvature` in one pass: every gradient is decomposed once, not four times.

    Args:
        run: A run; its tables are written when it was opened with ``write=True``.
        ranks: Ranks of the energy table, or a single one; None for m/64 to m/2 of the median layer.
        rank: Rank of the angles and the curvature; None for a quarter of the median m.
        lags: Ages of stale bases in the energy table, in captures, or a single one; curvature is taken at the shortest.
        top: How many singular values of the curvature tangent.
        executor: Spreads the layers.

    Returns:
        The tables by name: energy, spectrum, spectrum_summary, spectrum_null, angles, curvature.

    Raises:
        ValueError: If an argument is out of range.
        RunError: If the run is not sound.
        TypeError: If `run` is not a run.
    """
    chosen, ages = check_rank(run, rank), whole_numbers("lag", lags)
    measures: list[Measure] = [
        Energy(check_ranks(run, ranks), ages),
        Spectrum(),
        SpectrumSummary(),
        Angles(chosen),
        Curvature(chosen, whole_number("top", top), ages[:1] or (1,)),
    ]
    tables = pass_over_snapshots(run, measures, executor)
    warn_of_undetermined(tables["energy"])
    tables["spectrum_null"] = spectrum_null(run)
    run.write_table("spectrum_null", tables["spectrum_null"])
    return tables
