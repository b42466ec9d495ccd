"""What a quantity of the study is: the trainings it needs, its table and its pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas as pd

from subspace_lab.figures.style import Picture
from subspace_lab.studies.grass_paper.profiles import Profile
from subspace_lab.studies.grass_paper.store import PaperStore
from subspace_lab.studies.grass_paper.variants import Variants


@dataclass(frozen=True)
class Quantity:
    """One quantity.

    Attributes:
        title: What it is, in a few words.
        measure: Makes its table from the tables in the store; an empty table where those hold too little.
        figures: Its pictures by the names of their files, each drawn from the table.
        columns: The columns of the table, and the kind of each: ``int``, ``float``, ``str`` or ``bool``.
        variants: The settings that are tuned and then trained with every seed, by name.
        captured: How many seeds are captured, by method.
    """

    title: str
    measure: Callable[[PaperStore], pd.DataFrame]
    figures: Mapping[str, Picture]
    columns: Mapping[str, str]
    variants: Callable[[Profile], Variants] = lambda _: {}
    captured: Callable[[Profile], dict[str, int]] = lambda _: {}
