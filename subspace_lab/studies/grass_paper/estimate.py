"""How much is left to train, and about how long that takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from subspace_lab.studies.grass_paper.cells import ENDED, missing, tuning_cells
from subspace_lab.studies.grass_paper.quantities import QUANTITIES
from subspace_lab.studies.grass_paper.store import CELLS, Store
from subspace_lab.studies.grass_paper.variants import CAPTURED, Variants


@dataclass(frozen=True)
class Estimate:
    """What is left.

    Attributes:
        there: Trainings whose rows are in the tables.
        cells: Trainings to come.
        seconds: All of them one after the other.
    """

    there: int
    cells: int
    seconds: float


def estimate(store: Store, names: Sequence[str]) -> Estimate:
    """Count what the experiments need and the tables do not hold; a cell takes as long as the ones that are there did.

    Args:
        store: The tables.
        names: Experiments.

    Returns:
        The estimate.
    """
    scale, table = store.profile, store.read(CELLS)
    variants: Variants = {}
    captured: dict[str, int] = {}
    for name in names:
        variants |= QUANTITIES[name].variants(scale)
        for method, number in QUANTITIES[name].captured(scale).items():
            captured[method] = max(number, captured.get(method, 0))
    tuning = tuning_cells(variants, scale) if variants else []
    wanted = len(tuning) + len(variants) * (scale.seeds - 1) + sum(captured.values())
    ended = table if table.empty else table[table["status"].isin(ENDED)]
    known = set() if table.empty else set(zip(ended["method"], ended["seed"], strict=True))
    there = len(tuning) - len(missing(store, tuning))
    there += sum((name, seed) in known for name in variants for seed in range(1, scale.seeds))
    there += sum((CAPTURED + m, s) in known for m, number in captured.items() for s in range(number))
    one = scale.cell_s if table.empty else float(table["wall_s"].median())
    return Estimate(there, max(0, wanted - there), max(0, wanted - there) * one)


def in_words(seconds: float, workers: int | None) -> str:
    """``about 66 minutes, 2 at a time``; where their number is not known, all of them one after the other."""
    left = seconds / (workers or 1)
    if left < 90:
        told = f"about {max(1, round(left))} seconds"
    elif left < 100 * 60:
        told = f"about {round(left / 60)} minutes"
    else:
        told = f"about {round(left / 3600)} hours"
    return (
        f"{told}, {workers} at a time" if workers else f"{told} one after the other; as many at a time as Slurm gives"
    )
