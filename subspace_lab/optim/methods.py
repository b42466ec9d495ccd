"""The methods, listed once: `subspace_lab.optim` has those of ``__all__``, command lines and comparisons by name."""

from __future__ import annotations

import torch

from subspace_lab._text import nearest
from subspace_lab.optim.apollo import APOLLO
from subspace_lab.optim.badam import BAdam
from subspace_lab.optim.dctadamw import DCTAdamW
from subspace_lab.optim.fastgrassjump import FastGrassJump
from subspace_lab.optim.fastgrasswalk import FastGrassWalk
from subspace_lab.optim.fira import Fira
from subspace_lab.optim.frugal import FRUGAL
from subspace_lab.optim.galore import GaLore
from subspace_lab.optim.golore import GoLore
from subspace_lab.optim.grassjump import GrassJump
from subspace_lab.optim.grasswalk import GrassWalk
from subspace_lab.optim.ldadam import LDAdam
from subspace_lab.optim.online_subspace_descent import OnlineSubspaceDescent
from subspace_lab.optim.rso import RSO
from subspace_lab.optim.subspace_adam import SubspaceAdam
from subspace_lab.optim.subtrack import SubTrack

__all__ = [  # noqa: RUF022  # in the order of tables; a further method is its import above and its name here
    "GrassWalk", "GrassJump", "SubTrack", "GaLore", "GoLore", "Fira", "LDAdam", "APOLLO", "FRUGAL",
    "OnlineSubspaceDescent", "RSO", "BAdam", "FastGrassWalk", "FastGrassJump", "DCTAdamW",
]  # fmt: skip
METHODS: dict[str, type[torch.optim.Optimizer]] = {"adamw": torch.optim.AdamW}
METHODS |= {name.lower(): globals()[name] for name in __all__}
_BY_NAME = {**METHODS, SubspaceAdam.__name__.lower(): SubspaceAdam}  # no method of its own, but any of them in parts


def method_named(name: str) -> type[torch.optim.Optimizer]:
    """The optimizer of that name, whatever its case and hyphens; `SubspaceAdam`, which takes any parts, too.

    Args:
        name: ``"GrassWalk"``, ``"grass-walk"``, ``"adamw"``, ...

    Returns:
        The class.

    Raises:
        ValueError: If there is none; names the nearest.
    """
    key = name.lower().replace("-", "").replace("_", "")
    if key not in _BY_NAME:
        begun = [method for method in _BY_NAME if method.startswith(key)]  # "adam" is a short AdamW, no misspelt BAdam
        near = begun[0] if begun else str(nearest(key, _BY_NAME))
        known = ", ".join(method.__name__ for method in _BY_NAME.values())
        raise ValueError(f"no optimizer is called {name!r}; nearest: {_BY_NAME[near].__name__}; there are {known}")
    return _BY_NAME[key]
