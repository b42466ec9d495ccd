"""The tuned protocol: every method by a coordinate search of its own on a tuning seed, then evaluated on other seeds.

Every method, AdamW included, has a rate of the matrices and a rate of the rest (embeddings, head, norms), then beta2
and the warm-up at the best of them. One rate for all groups would give every low-rank method a second step length, its
scale, and AdamW none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from subspace_lab.experiments.phases import Evaluate
from subspace_lab.experiments.search import Axis, Point, Search, Stage
from subspace_lab.experiments.variants import Trainings

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
START = {"lr": 3e-3, "lr_rest": 1e-2}
BETA2 = (0.95, 0.99, 0.999)
WARMUP_SHARES = (0.05, 0.1, 0.2)  # of the steps
TUNING_SEEDS = (1000,)  # no evaluation uses them
SEEDS = 5


@dataclass(frozen=True)
class Budget:
    """How many trainings a search may use for each method and tuning seed, after the first one.

    Attributes:
        rates: For the rates of the matrices and of the rest.
        fine: For beta2 and the warm-up.
        variant: For the rate of the matrices of a variant that inherits everything else.
    """

    rates: int = 6
    fine: int = 3
    variant: int = 4


BUDGET = Budget()


def search_of(
    methods: Mapping[str, Mapping[str, Any]],
    make: Trainings,
    *,
    lrs: Sequence[float] = RATES,
    budget: Budget = BUDGET,
) -> Search:
    """The search of some methods over both rates, then over beta2 and the warm-up at the best of them.

    Args:
        methods: Settings by name, from `parse_methods`; a setting that a method says itself is not searched.
        make: Makes the trials.
        lrs: The ladder of both rates, ascending, at least two; the search goes on beyond its ends.
        budget: How far it goes.

    Returns:
        The phase.
    """
    starts, stages = {}, {}
    for name, settings in methods.items():
        config = make.config(name, {"lr": START["lr"]}, 0)
        assert config.betas is not None
        assert config.steps is not None
        assert config.warmup is not None
        warmups = tuple(sorted({max(1, round(share * config.steps)) for share in WARMUP_SHARES} | {config.warmup}))
        axes = [Axis("lr_rest", tuple(lrs), grows=True), Axis("lr", tuple(lrs), grows=True)]
        fine = [Axis("beta2", tuple(sorted({*BETA2, config.betas[1]}))), Axis("warmup", warmups)]
        start: Point = {"lr": _nearest(lrs, START["lr"]), "lr_rest": _nearest(lrs, START["lr_rest"])}
        start |= {"beta2": config.betas[1], "warmup": config.warmup}
        said = {*settings} | ({"beta2"} if "betas" in settings else set())
        starts[name] = {key: value for key, value in start.items() if key not in said}
        searched = [
            (tuple(axis for axis in chosen if axis.name not in said and len(axis.values) > 1), room)
            for chosen, room in ((axes, budget.rates), (fine, budget.fine))
        ]
        stages[name] = [Stage(free, room) for free, room in searched if free]
    return Search(starts, stages, TUNING_SEEDS, make)


def inherited(
    donors: Mapping[str, str],
    tuned: Search,
    make: Trainings,
    *,
    lrs: Sequence[float] = RATES,
    budget: Budget = BUDGET,
) -> Search:
    """The search of the matrices' rate alone, of variants that wait for the best setting of a method each, its donor.

    Returns:
        The phase; `donors` has for each variant the method of `tuned` that it takes the other settings of.
    """
    stage = Stage((Axis("lr", tuple(lrs), grows=True),), budget.variant)
    return Search(
        {name: tuned.starts[donor] for name, donor in donors.items()}, {name: [stage] for name in donors}, tuned.seeds,
        make, donors={name: (tuned, donor) for name, donor in donors.items()},
    )  # fmt: skip


def tuned_phases(
    methods: Mapping[str, Mapping[str, Any]], make: Trainings, *, seeds: int = SEEDS, lrs: Sequence[float] = RATES
) -> tuple[Search, Evaluate]:
    """Search of some methods, and evaluation at the best setting of each on seeds from 0 on; see `search_of`."""
    search = search_of(methods, make, lrs=lrs)
    return search, Evaluate(search, dict.fromkeys(methods, range(seeds)), make)


def _nearest(values: Sequence[float], wanted: float) -> float:
    """The value of a ladder whose ratio to the wanted one is nearest to 1."""
    return min(values, key=lambda value: max(value / wanted, wanted / value))
