"""Singular values of gradients, their scalar summaries, and the spectrum that noise would have.

Legend: G oriented gradient (m, n); ``sigma`` its singular values, descending.
"""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from subspace_lab.analysis.columns import Columns, dtype_of
from subspace_lab.analysis.layer_step import Layer, LayerStep
from subspace_lab.analysis.pass_over_snapshots import pass_over_snapshots
from subspace_lab.numerics import effective_rank, null_spectrum, participation_ratio, stable_rank
from subspace_lab.runs import Run
from subspace_lab.runs.run import check_run

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Spectrum:
    """The measure behind `spectrum`."""

    table = "spectrum"
    columns = ("step", "layer", "depth", "kind", "index", "singular_value")
    num_vectors = 0
    max_lag = 0
    first_columns = 0
    residual = False

    def add(self, at: LayerStep, columns: Columns) -> None:
        """Add one row per singular value."""
        size = len(at.energies)
        columns.add(
            size,
            step=at.step, layer=at.layer.name, depth=at.layer.depth, kind=at.layer.kind,
            index=np.arange(size), singular_value=at.energies.sqrt().numpy(),
        )  # fmt: skip


@dataclass(frozen=True)
class SpectrumSummary:
    """The measure behind `spectrum_summary`."""

    table = "spectrum_summary"
    columns = (
        "step", "layer", "depth", "kind", "m", "n",
        "frobenius_norm", "stable_rank", "effective_rank", "participation_ratio", "nuclear_rank",
    )  # fmt: skip
    num_vectors = 0
    max_lag = 0
    first_columns = 0
    residual = False

    def add(self, at: LayerStep, columns: Columns) -> None:
        """Add one row, of the values above rounding; the ranks of a gradient that is all zeros are NaN."""
        sigma, defined = at.energies[: at.num_determined].sqrt(), at.total > 0
        columns.add(
            1,
            step=at.step, layer=at.layer.name, depth=at.layer.depth, kind=at.layer.kind,
            m=at.layer.m, n=at.layer.n, frobenius_norm=at.total**0.5,
            stable_rank=stable_rank(sigma) if defined else np.nan,
            effective_rank=effective_rank(sigma) if defined else np.nan,
            participation_ratio=participation_ratio(sigma) if defined else np.nan,
            nuclear_rank=float(sigma.sum()) ** 2 / at.total if defined else np.nan,
        )  # fmt: skip


def spectrum(run: Run, *, executor: Executor | None = None) -> pd.DataFrame:
    """All singular values of all captured gradients; writes the summaries and the noise reference beside them.

    From a float32 Gram matrix, values below 1e-3 of the largest are not to be trusted (0.4 % off at 1e-3, 6 % at
    3e-4).

    Args:
        run: A run of any ``keep``.
        executor: Spreads the layers.

    Returns:
        One row per (step, layer, index): step, layer, depth, kind, index (0 the largest), singular_value. A writable
        run also gets ``spectrum_summary`` (see `spectrum_summary`) and ``spectrum_null`` (see `spectrum_null`).

    Raises:
        RunError: If the run is not sound.
    """
    table = pass_over_snapshots(run, [Spectrum(), SpectrumSummary()], executor)["spectrum"]
    run.write_table("spectrum_null", spectrum_null(run))
    return table


def spectrum_summary(run: Run, *, executor: Executor | None = None) -> pd.DataFrame:
    """Scalar summaries of each spectrum: one row per (step, layer).

    ``stable_rank = ||G||_F^2 / ||G||_2^2``; ``effective_rank = exp(-sum p log p)`` with p = sigma / sum(sigma);
    ``participation_ratio = (sum sigma^2)^2 / sum sigma^4``; ``nuclear_rank = ||G||_*^2 / ||G||_F^2``
    (arXiv 2512.04299).

    Args:
        run: A run of any ``keep``.
        executor: Spreads the layers.

    Returns:
        Columns step, layer, depth, kind, m, n, frobenius_norm, stable_rank, effective_rank, participation_ratio,
        nuclear_rank.

    Raises:
        RunError: If the run is not sound.
    """
    return pass_over_snapshots(run, [SpectrumSummary()], executor)["spectrum_summary"]


def spectrum_null(run: Run) -> pd.DataFrame:
    """The expected singular values of Gaussian noise with Frobenius norm 1, for each shape of layer.

    Args:
        run: A run; only its layer table is read.

    Returns:
        One row per (m, n, index): m, n, index, singular_value.
    """
    import pandas as pd

    check_run(run)
    shapes = sorted({(layer.m, layer.n) for layer in map(Layer.of, run.manifest["layers"])})
    blocks = [
        pd.DataFrame({"m": m, "n": n, "index": np.arange(min(m, n)), "singular_value": null_spectrum(m, n)})
        for m, n in shapes
    ]
    table = pd.concat(blocks, ignore_index=True)
    return table.astype({name: dtype_of(str(name)) for name in table})
