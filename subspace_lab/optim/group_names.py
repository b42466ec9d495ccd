"""What the parameters of an optimizer's groups are called, and what their random draws are keyed by."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from subspace_lab._names import canonical_name, canonical_names

Group = dict[str, Any]
_MADE = "parameter "
_canonical = functools.lru_cache(maxsize=1 << 16)(canonical_name)  # asked for at every step


def name_of(group: Group, place: int) -> str:
    """What to call a parameter in a message: its name where the group knows it, else its place and shape."""
    if "param_names" in group:
        return str(group["param_names"][place])
    return f"parameter {place} of its group, of shape {tuple(group['params'][place].shape)}"


def draw_key(group: Group, place: int, index: int) -> str | int:
    """What the random draws of a parameter are keyed by.

    Args:
        group: Its group; ``draws_by`` says how, and is missing in states of releases that knew places only.
        place: Its place in the group.
        index: Its place among all parameters of the optimizer.

    Returns:
        Its name, or its place among all.
    """
    return _canonical(str(group["param_names"][place])) if group.get("draws_by") == "name" else index


def draws_by(group: Group, earlier: Sequence[Group]) -> str:
    """``"name"`` if the group's parameters have names that no other parameter has, else ``"place"``."""
    own, taken = _names([group]), set(_names(earlier))
    return "name" if own and len({*own, *taken}) == len(own) + len(taken) else "place"


def agree_on_names(group: Group, earlier: Sequence[Group]) -> list[Group]:
    """Make names where only a part of the parameters has some: torch takes all or none.

    Args:
        group: What is to be added; its parameters become a list.
        earlier: The groups that there are.

    Returns:
        The earlier groups that were given names, ``parameter 3`` for the fourth one of all.

    Raises:
        ValueError: If the group has more or fewer names than parameters.
    """
    params = group["params"]
    group["params"] = params = (
        [params] if isinstance(params, Tensor) else params if isinstance(params, set) else list(params)
    )
    check_names(group)
    named = "param_names" in group or any(isinstance(p, tuple) for p in params)
    before = sum(len(other["params"]) for other in earlier)
    if not named and any("param_names" in other for other in earlier):
        group["param_names"] = [f"{_MADE}{before + place}" for place in range(len(params))]
    unnamed = [other for other in earlier if named and "param_names" not in other]
    index = 0
    for other in earlier:
        if named and "param_names" not in other:
            other["param_names"] = [f"{_MADE}{index + place}" for place in range(len(other["params"]))]
        index += len(other["params"])
    return unnamed


def canonical_by_name(groups: Iterable[Group]) -> dict[str, str]:
    """Canonical names of the parameters of all groups, by those that the groups have."""
    return canonical_names(dict.fromkeys(str(name) for group in groups for name in group.get("param_names", ())))


def check_names(group: Group) -> None:
    """Refuse a group with more or fewer names than parameters."""
    names, params = group.get("param_names"), group["params"]
    if names is not None and len(names) != len(params):
        raise ValueError(f"a group has {len(names)} param_names for {len(params)} params; give each one")


def check_same_name(saved: Group, group: Group, place: int, canonical: Sequence[Mapping[str, str]]) -> None:
    """Refuse the state of another parameter, which may be of the same shape; names that were made say nothing."""
    names = [str(g["param_names"][place]) for g in (saved, group) if place < len(g.get("param_names", ()))]
    if len(names) < 2 or any(name.startswith(_MADE) for name in names):
        return
    if len({known[name] for name, known in zip(names, canonical, strict=True)}) > 1:
        raise ValueError(
            f"the state has {names[0]} where {names[1]} is expected: build the groups as the saved ones were"
        )


def _names(groups: Iterable[Group]) -> list[str]:
    return [canonical_name(str(name)) for group in groups for name in group.get("param_names", ())]
