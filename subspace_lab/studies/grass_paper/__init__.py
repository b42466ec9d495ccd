"""The figures and tables of arXiv 2510.01878, and what its reviewers missed, made again by one command.

`quantities` has one file per quantity: what it trains, its table in ``OUT_DIR/tables``, and the figures that are drawn
from this table. Importing this package is cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from subspace_lab._late import late

if TYPE_CHECKING:
    from subspace_lab.studies.grass_paper.profiles import PROFILES, Profile
    from subspace_lab.studies.grass_paper.study import regenerate

__all__ = ["PROFILES", "Profile", "regenerate"]

__getattr__ = late(__name__, {"PROFILES": "profiles", "Profile": "profiles", "regenerate": "study"})
