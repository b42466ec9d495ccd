"""What the study measures: the tables of a profile, and a quantity with what it trains at the scale of a profile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from subspace_lab.experiments import study
from subspace_lab.experiments.store import Store
from subspace_lab.studies.grass_paper.profiles import Profile
from subspace_lab.studies.grass_paper.variants import Variants


class PaperStore(Store):
    """The tables of a profile, from `subspace_lab.studies.grass_paper.out_dir.open_store`.

    Attributes:
        profile: Its scale.
    """

    profile: Profile


@dataclass(frozen=True)
class Quantity(study.Quantity):
    """One quantity; its phases depend on the profile, see `subspace_lab.studies.grass_paper.trials.phases`.

    Attributes:
        variants: The settings that are tuned and then trained with every seed, by name.
        captured: Number of captured seeds by method.
    """

    variants: Callable[[Profile], Variants] = lambda _: {}
    captured: Callable[[Profile], dict[str, int]] = lambda _: {}
