"""What each quantity trains, by the phases of the engine."""

from __future__ import annotations

from dataclasses import dataclass

from subspace_lab.experiments.grid import Make, Phase, Setting
from subspace_lab.experiments.phases import Evaluate
from subspace_lab.experiments.protocol import inherited, search_of
from subspace_lab.experiments.trial import Trial
from subspace_lab.experiments.variants import Trainings, parse_methods
from subspace_lab.studies.grass_paper.profiles import Profile
from subspace_lab.studies.grass_paper.quantities import QUANTITIES
from subspace_lab.studies.grass_paper.quantity import Quantity
from subspace_lab.studies.grass_paper.variants import Variants, donor, keeps, larger, tuned


@dataclass(frozen=True)
class Makers:
    """Makers of a profile's trials.

    Attributes:
        plain: Without captures.
        captured: The same with captured gradients.
        short: Trainings of the search in the larger size.
    """

    plain: Trainings
    captured: Trainings
    short: Trainings


def trainings(profile: Profile, data_hash: str) -> Makers:
    """The makers of a profile's trials."""
    variants: Variants = tuned(profile)
    for quantity in QUANTITIES.values():
        variants |= quantity.variants(profile)
    base, methods = profile.base, parse_methods(variants)
    plain, captured = {"captured": False}, {"captured": True}
    shorter = profile.larger.tuning if profile.larger else {}
    return Makers(
        Trainings(base, methods, data_hash, factors=plain),
        Trainings(base, methods, data_hash, more=keeps(profile), factors=captured, prefix="captured "),
        Trainings(base, methods, data_hash, more=shorter, factors=plain, prefix="short "),
    )


def _of_full_length(make: Makers) -> Make:
    """A maker for settings that were tuned on short trainings: the warm-up stays the same share of the steps."""

    def made(variant: str, setting: Setting, seed: int, phase: str) -> Trial:
        short, whole = (one.config(variant, {"lr": setting["lr"]}, seed).steps for one in (make.short, make.plain))
        assert short is not None
        assert whole is not None
        longer = {key: round(float(value or 0) * whole / short) for key, value in setting.items() if key == "warmup"}
        return make.plain(variant, {**setting, **longer}, seed, phase)

    return made


def phases(quantity: Quantity, profile: Profile, make: Makers) -> tuple[Phase, ...]:
    """Search on the tuning seed (first of the methods whose setting is inherited), evaluation, then captured runs."""
    variants, full, big = quantity.variants(profile), tuned(profile), larger(profile)
    settings = parse_methods(variants | full)
    donors = {name: donor(settings[name], full) for name in variants if name not in full | big}
    chosen = [name for name in variants if name in full]
    search = search_of(
        {name: settings[name] for name in dict.fromkeys([*chosen, *donors.values()])}, make.plain, lrs=profile.lrs,
        budget=profile.budget,
    )  # fmt: skip
    found: list[Phase] = [search] if search.starts else []
    if chosen:
        found.append(Evaluate(search, dict.fromkeys(chosen, range(profile.seeds)), make.plain))
    if donors:
        own = inherited(donors, search, make.plain, lrs=profile.lrs, budget=profile.budget)
        found += [own, Evaluate(own, dict.fromkeys(donors, range(profile.seeds)), make.plain)]
    if profile.larger and (names := [name for name in variants if name in big]):
        short = search_of({name: settings[name] for name in names}, make.short, lrs=profile.lrs, budget=profile.budget)
        found += [short, Evaluate(short, dict.fromkeys(names, range(profile.larger.seeds)), _of_full_length(make))]
    if captured := {method: range(number) for method, number in quantity.captured(profile).items()}:
        found.append(Evaluate(search, captured, make.captured))
    return tuple(found)
