"""The tables of the study at the scale of a profile, as quantities and claims read them."""

from __future__ import annotations

from subspace_lab.experiments.store import Store
from subspace_lab.studies.grass_paper.profiles import Profile


class PaperStore(Store):
    """The tables of a profile, from `subspace_lab.studies.grass_paper.out_dir.open_store`.

    Attributes:
        profile: Its scale.
    """

    profile: Profile
