"""How a basis is chosen first and refreshed later: one class per rule, all behind the same two methods.

Legend: G oriented gradient (m, n), ``m <= n``; ``S (m, r)`` orthonormal basis, ``r < m``.
"""

from subspace_lab.optim.rules.base import Context, Moment, Rule, ShippedRule
from subspace_lab.optim.rules.random_bases import Coordinates, GoloreRule, Hybrid, Jump
from subspace_lab.optim.rules.structured import Dct, Trig, TrigWalk
from subspace_lab.optim.rules.top_space import Frozen, Power, Svd
from subspace_lab.optim.rules.track import Track
from subspace_lab.optim.rules.walk import Walk

RULES: dict[str, ShippedRule | Trig] = {
    "coordinates": Coordinates(),
    "dct": Dct(),
    "frozen": Frozen(),
    "golore": GoloreRule(),
    "hybrid": Hybrid(),
    "jump": Jump(),
    "power": Power(),
    "svd": Svd(),
    "track": Track(),
    "trig": Trig(),
    "trig_walk": TrigWalk(),
    "walk": Walk(),
}

__all__ = [
    "RULES",
    "Context",
    "Coordinates",
    "Dct",
    "Frozen",
    "Hybrid",
    "Jump",
    "Moment",
    "Power",
    "Rule",
    "ShippedRule",
    "Svd",
    "Track",
    "Trig",
    "TrigWalk",
    "Walk",
]
