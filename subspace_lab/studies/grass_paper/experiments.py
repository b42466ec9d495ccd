"""The experiments by name, in the order in which they are made: what each needs trained, and its table and figure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import pandas as pd

from subspace_lab._text import unknown
from subspace_lab.studies.grass_paper import (
    ablation,
    ackley,
    captures,
    energy,
    methods,
    random_bases,
    recovery,
    refresh,
    relation,
    sensitivity,
    tangent,
    variants,
)
from subspace_lab.studies.grass_paper.figures import (
    ackley as fig_ackley,
    ackley_jumps,
    ackley_scales,
    fig1,
    fig1_depth,
    fig2,
    fig2_raw,
    fig3,
    projection_angles as fig_angles,
    random_bases as fig_bases,
    recovery as fig_recovery,
    refresh as fig_refresh,
    relation as fig_relation,
    sensitivity as fig_sensitivity,
    tables,
)
from subspace_lab.studies.grass_paper.profiles import Profile
from subspace_lab.studies.grass_paper.store import Store
from subspace_lab.studies.grass_paper.variants import Variants


@dataclass(frozen=True)
class Experiment:
    """What one figure or table takes.

    Attributes:
        title: In a few words.
        measure: Makes its table of those in the store.
        figures: Its files in `subspace_lab.studies.grass_paper.figures` by name.
        variants: What is tuned and then trained with every seed.
        captured: How many seeds of which methods are captured.
    """

    title: str
    measure: Callable[[Store], pd.DataFrame]
    figures: dict[str, ModuleType]
    variants: Callable[[Profile], Variants] = lambda _: {}
    captured: Callable[[Profile], dict[str, int]] = lambda _: {}


def _ackley(store: Store) -> pd.DataFrame:
    """Nothing is trained for it; a smoke test takes a corner of it."""
    if store.profile.name == "smoke":
        return ackley.measure(scales=(1.0, 3.0), num_seeds=2, steps=12, size=8, rank=2)
    return ackley.measure()


def _angles(store: Store) -> pd.DataFrame:
    """The histograms of the first seed, which were counted while its captures were there."""
    table = store.read(captures.ANGLES)
    return table if table.empty else table[table["seed"] == 0].drop(columns=["cell", "method", "seed"])


def _adamw(profile: Profile) -> Variants:  # noqa: ARG001
    return {"adamw": {"optimizer": "adamw"}}


def _all_seeds(profile: Profile) -> dict[str, int]:
    return {"adamw": profile.seeds}


def _every_method(profile: Profile) -> dict[str, int]:
    return dict.fromkeys(profile.methods, 1)


EXPERIMENTS: dict[str, Experiment] = {
    "fig3": Experiment("rule x AO x RS", ablation.measure, {"fig3": fig3}, variants.ablation),
    "tables": Experiment("Tables 1 and 2", methods.measure, {"tables": tables}, variants.methods),
    "fig1": Experiment(
        "energy ratio", energy.measure, {"fig1": fig1, "fig1_depth": fig1_depth}, _adamw, _all_seeds
    ),
    "fig2": Experiment(
        "tangent singular values", tangent.measure, {"fig2": fig2, "fig2_raw": fig2_raw}, _adamw, _all_seeds
    ),
    "recovery": Experiment("size of L over training", recovery.measure, {"recovery": fig_recovery}, variants.ablation),
    "random_bases": Experiment(
        "hybrid, random coordinates", random_bases.measure, {"random_bases": fig_bases}, variants.random_bases
    ),
    "sensitivity": Experiment(
        "r, T, walk step, zeta, scale", sensitivity.measure, {"sensitivity": fig_sensitivity}, variants.sensitivity
    ),
    "refresh": Experiment("share of refresh time", refresh.measure, {"refresh": fig_refresh}, variants.methods),
    "relation": Experiment(
        "energy, flatness and loss", relation.measure, {"relation": fig_relation}, variants.methods, _every_method
    ),
    "ackley": Experiment(
        "Ackley's function", _ackley,
        {"ackley": fig_ackley, "ackley_scales": ackley_scales, "ackley_jumps": ackley_jumps},
    ),
    "projection_angles": Experiment(
        "principal angles", _angles, {"projection_angles": fig_angles}, _adamw, _all_seeds
    ),
}  # fmt: skip


def chosen(only: list[str] | None) -> list[str]:
    """The names of the experiments that were asked for, in the order in which they are made.

    Args:
        only: Names; None for all.

    Returns:
        Names.

    Raises:
        ValueError: If one is not known; names the nearest. If there is none, or one twice.
    """
    if only is None:
        return list(EXPERIMENTS)
    if not only:
        raise ValueError(f"only names no figure; leave it out for all of them (known: {', '.join(EXPERIMENTS)})")
    for name in only:
        if name not in EXPERIMENTS:
            raise ValueError(unknown("figure", name, EXPERIMENTS))
        if only.count(name) > 1:
            raise ValueError(f"only has {name} twice; leave one out")
    return [name for name in EXPERIMENTS if name in only]
