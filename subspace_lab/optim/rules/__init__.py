"""How a basis is chosen first and refreshed later: one file per rule, all behind the same two methods.

Legend: G oriented gradient (m, n), ``m <= n``; ``S (m, r)`` orthonormal basis, ``r < m``.
"""

from subspace_lab.optim.rules.base import Context, Moment, Rule
from subspace_lab.optim.rules.coordinates import Coordinates
from subspace_lab.optim.rules.frozen import Frozen
from subspace_lab.optim.rules.golore import GoloreRule
from subspace_lab.optim.rules.hybrid import Hybrid
from subspace_lab.optim.rules.jump import Jump
from subspace_lab.optim.rules.power import Power
from subspace_lab.optim.rules.svd import Svd
from subspace_lab.optim.rules.track import Track
from subspace_lab.optim.rules.walk import Walk

RULES: dict[str, Rule] = {
    "coordinates": Coordinates(),
    "frozen": Frozen(),
    "golore": GoloreRule(),
    "hybrid": Hybrid(),
    "jump": Jump(),
    "power": Power(),
    "svd": Svd(),
    "track": Track(),
    "walk": Walk(),
}

__all__ = [
    "RULES",
    "Context",
    "Coordinates",
    "Frozen",
    "Hybrid",
    "Jump",
    "Moment",
    "Power",
    "Rule",
    "Svd",
    "Track",
    "Walk",
]
