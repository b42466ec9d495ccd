"""The claims W1 to W4 of arXiv 2510.01878 about gradients, as statements about tables of captured runs.

Each table has the rows of one kind of training, `subspace_lab.experiments.captured` makes them.
"""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from subspace_lab.analysis.ranks import nearest_rank
from subspace_lab.analysis.trends import change_over_depth, change_over_training, evenness
from subspace_lab.experiments.claims import Statement, statement


def core_energy(table: pd.DataFrame) -> list[Statement]:
    """W1: the core of the rank nearest a quarter of the width, the habit of the field, holds most of the energy.

    Args:
        table: From `energy_ratios`.

    Returns:
        That the ratio is above 0.5, and above that of noise; nothing of an empty table.
    """
    if table.empty:
        return []
    rank = nearest_rank(table["rank"], float(table["m"].median()) / 4)
    rows = table.loc[table["rank"] == rank]
    ratio = rows.groupby("seed")["ratio"].mean()
    noise = rows.groupby("seed")["null_noise"].mean()
    share = f"r/m = 1/{rows['m'].median() / rank:g}"
    return [
        statement(f"at {share} the ratio is above 0.5 (0.5 minus ratio)", 0.5 - ratio, unit=""),
        statement(f"at {share} it is above that of noise's own space (noise minus ratio)", noise - ratio, unit=""),
    ]


def energy_over_training(table: pd.DataFrame) -> list[Statement]:
    """W2: the ratio falls over training; a statement per rank, for a table from `energy_ratios`."""
    text = "the ratio falls over training (last third minus first third)"
    return _at_each_rank(table, text, lambda rows: change_over_training(rows, by=("seed", "kind", "depth")))


def energy_over_depth(table: pd.DataFrame) -> list[Statement]:
    """W3: the ratio falls over depth; a statement per rank, for a table from `energy_ratios`."""
    text = "the ratio falls over depth (last block minus first, along a fitted line)"
    return _at_each_rank(table, text, lambda rows: change_over_depth(rows, by=("seed", "kind")))


def _at_each_rank(
    table: pd.DataFrame, text: str, change: Callable[[pd.DataFrame], pd.Series[float]]
) -> list[Statement]:
    if table.empty:
        return []
    width, found = float(table["m"].median()), []
    for rank in sorted(map(int, set(table["rank"]))):
        by_seed = change(table.loc[table["rank"] == rank]).groupby("seed").mean()
        found.append(statement(f"at r/m = 1/{width / rank:g} {text}", by_seed, unit=""))
    return found


def flatness(table: pd.DataFrame) -> list[Statement]:
    """W4: the singular values of the error's derivative are small, largest for down_proj, and get more even.

    Args:
        table: From `tangents_at_moments`.

    Returns:
        The statements; nothing of an empty table.
    """
    if table.empty:
        return []
    first = table[table["index"] == 0]
    largest = first.groupby("seed")[["normalized", "null_noise"]].mean()
    by_kind = first.groupby(["seed", "kind"])["normalized"].mean().unstack()
    others = by_kind.drop(columns="down_proj").max(axis=1) if "down_proj" in by_kind else None
    even = evenness(table, by=("seed", "kind", "step")).rename("evenness").reset_index()
    growth = change_over_training(even, "evenness", by=("seed", "kind")).groupby("seed").mean()
    found = [
        statement(
            "the largest value is below that of noise (value minus noise's, over ‖G‖²)",
            largest["normalized"] - largest["null_noise"], unit="",
        )
    ]  # fmt: skip
    if others is not None:
        text = "it is largest for down_proj (largest other minus down_proj)"
        found.append(statement(text, others - by_kind["down_proj"], unit=""))
    if len(growth):
        found.append(statement("values get more even (20th over 1st, first minus last step shown)", -growth, unit=""))
    return found
