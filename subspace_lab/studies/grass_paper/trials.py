"""What each quantity trains, by the phases of the engine."""

from __future__ import annotations

from collections.abc import Mapping

from subspace_lab.experiments.grid import Grid, Phase
from subspace_lab.experiments.phases import Evaluate
from subspace_lab.experiments.variants import Trainings, parse_methods, rates
from subspace_lab.studies.grass_paper.profiles import Profile
from subspace_lab.studies.grass_paper.quantities import QUANTITIES
from subspace_lab.studies.grass_paper.quantity import Quantity
from subspace_lab.studies.grass_paper.variants import Variants, keeps

TUNING_SEEDS = (0,)


def trainings(profile: Profile, data_hash: str) -> Mapping[bool, Trainings]:
    """Makers of a profile's trials, by whether the gradients are captured."""
    variants: Variants = {name: {"optimizer": name} for name in profile.methods}
    for quantity in QUANTITIES.values():
        variants |= quantity.variants(profile)
    base, methods = profile.base, parse_methods(variants)
    return {
        False: Trainings(base, methods, data_hash, factors={"captured": False}),
        True: Trainings(
            base, methods, data_hash, more=keeps(profile), factors={"captured": True}, prefix="captured "
        ),
    }  # fmt: skip


def phases(quantity: Quantity, profile: Profile, make: Mapping[bool, Trainings]) -> tuple[Phase, ...]:
    """All rates on the tuning seed, then all seeds at the best rate, then captured runs; none without variants."""
    variants = quantity.variants(profile)
    if not variants:
        return ()
    grid = Grid([*variants], rates(profile.lrs), TUNING_SEEDS, make[False], "tune")
    captured = {method: range(number) for method, number in quantity.captured(profile).items()}
    return (
        grid,
        Evaluate(grid, dict.fromkeys(variants, range(profile.seeds)), make[False]),
        *([Evaluate(grid, captured, make[True])] if captured else []),
    )
