"""The quantities of the study: one file each, with what it trains, the columns of its table, its measure and pictures.

Another quantity is another file and a line of `QUANTITIES`.
"""

from __future__ import annotations

from subspace_lab._text import unknown
from subspace_lab.studies.grass_paper.quantities import (
    ablation,
    ackley,
    energy,
    methods_overview,
    projection_angles,
    random_bases,
    recovery,
    refresh,
    relation,
    sensitivity,
    tangent,
)
from subspace_lab.studies.grass_paper.quantity import Quantity

QUANTITIES: dict[str, Quantity] = {  # by the names of their tables, in the order in which they are made
    "fig3": ablation.QUANTITY,
    "tables": methods_overview.QUANTITY,
    "fig1": energy.QUANTITY,
    "fig2": tangent.QUANTITY,
    "recovery": recovery.QUANTITY,
    "random_bases": random_bases.QUANTITY,
    "sensitivity": sensitivity.QUANTITY,
    "relation": relation.QUANTITY,
    "ackley": ackley.QUANTITY,
    "projection_angles": projection_angles.QUANTITY,
    "larger": methods_overview.LARGER,
    "refresh": refresh.QUANTITY,  # of both sizes
}


def chosen(only: list[str] | None) -> list[str]:
    """The quantities that were asked for (None for all) as they are made; ValueError for an unknown or repeated one."""
    if only is None:
        return list(QUANTITIES)
    if not only:
        raise ValueError(f"only names no figure; leave it out for all of them (known: {', '.join(QUANTITIES)})")
    for name in only:
        if name not in QUANTITIES:
            raise ValueError(unknown("figure", name, QUANTITIES))
        if only.count(name) > 1:
            raise ValueError(f"only has {name} twice; leave one out")
    return [name for name in QUANTITIES if name in only]
