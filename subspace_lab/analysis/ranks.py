"""The ranks of the tables: the rank that the field uses, and the rank at which something can be seen."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import TYPE_CHECKING

from subspace_lab._checks import whole_numbers
from subspace_lab.analysis.layer_step import Layer
from subspace_lab.runs import Run, RunError
from subspace_lab.runs.run import check_run

if TYPE_CHECKING:
    import pandas as pd

SATURATED = 0.98  # a mean ratio above this leaves no room for differences


def reference_rank(run: Run) -> int:
    """A quarter of the median m of the layers, at least 1: the rank the field trains at, and the default here.

    Args:
        run: An opened run.

    Returns:
        The rank.
    """
    return max(1, int(statistics.median_low(_sizes(run))) // 4)


def nearest_rank(ranks: Iterable[int], wanted: float) -> int:
    """The rank nearest a wanted one, the smaller of two that are equally near.

    Args:
        ranks: Ranks that were measured, in any order, at least one.
        wanted: The rank that was wanted.

    Returns:
        One of the ranks.
    """
    return min(sorted(set(map(int, ranks))), key=lambda rank: abs(rank - wanted))


def telling_rank(run: Run, energy: pd.DataFrame) -> int:
    """The measured rank nearest the reference rank, or the largest one below at which differences can be seen.

    Where own spaces of a quarter of m hold nearly everything, as early in training on small batches, neither a trend
    nor a difference between layers can be seen there.

    Args:
        run: An opened run.
        energy: Its energy table.

    Returns:
        The largest such rank whose mean own ratio is at most 0.98; the smallest measured rank otherwise.
    """
    nearest = nearest_rank(energy["rank"], reference_rank(run))
    means = energy[energy["basis"] == "own"].groupby("rank")["ratio"].mean()
    measured: list[int] = means.index.tolist()
    telling = [rank for rank, ratio in zip(measured, means, strict=True) if ratio <= SATURATED and rank <= nearest]
    return max(telling, default=min(*measured, nearest))


def check_ranks(run: Run, ranks: int | Iterable[int] | None) -> tuple[int, ...]:
    """The ranks as asked, or m/64, m/32, ..., m/2 for the median m of the layers.

    Args:
        run: An opened run.
        ranks: Ranks or a single one, or None for the default.

    Returns:
        The ranks, ascending and without repetition.

    Raises:
        ValueError: If one is smaller than 1 or larger than every layer.
    """
    if ranks is None:
        m = 4 * reference_rank(run)
        return tuple(sorted({max(1, m // 2**k) for k in range(1, 7)}))
    checked = whole_numbers("rank", ranks)
    if not checked:
        raise ValueError("ranks is empty; give at least one rank, or None for the default")
    if checked[-1] > max(_sizes(run)):
        raise ValueError(
            f"rank {checked[-1]} is larger than every layer; the largest of {run.path} has m = {max(_sizes(run))}"
        )
    return checked


def check_rank(run: Run, rank: int | None) -> int:
    """One rank as asked, or the reference rank.

    Args:
        run: An opened run.
        rank: A rank, or None for the default.

    Returns:
        The rank.
    """
    return reference_rank(run) if rank is None else check_ranks(run, (rank,))[0]


def _sizes(run: Run) -> list[int]:
    check_run(run)
    if not run.manifest["layers"]:
        raise RunError(f"{run.path} has no layers; capture at least one")
    return [Layer.of(row).m for row in run.manifest["layers"]]
