"""What the study measures: the tables of a profile, and a quantity with its trainings, table and pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas as pd

from subspace_lab.experiments.store import Store
from subspace_lab.figures.style import Picture
from subspace_lab.studies.grass_paper.profiles import Profile
from subspace_lab.studies.grass_paper.variants import Variants


class PaperStore(Store):
    """The tables of a profile, from `subspace_lab.studies.grass_paper.out_dir.open_store`.

    Attributes:
        profile: Its scale.
    """

    profile: Profile


@dataclass(frozen=True)
class Quantity:
    """One quantity.

    Attributes:
        title: A few words.
        measure: Makes its table from those in the store, empty while they hold too little.
        figures: Drawn from the table, by file name.
        columns: The kinds of the table's columns: ``int``, ``float``, ``str`` or ``bool``.
        variants: The settings that are tuned and then trained with every seed, by name.
        captured: Number of captured seeds by method.
    """

    title: str
    measure: Callable[[PaperStore], pd.DataFrame]
    figures: Mapping[str, Picture]
    columns: Mapping[str, str]
    variants: Callable[[Profile], Variants] = lambda _: {}
    captured: Callable[[Profile], dict[str, int]] = lambda _: {}
