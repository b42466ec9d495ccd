"""Groups are edited by schedulers at every step, and by users: what changed is checked, at the cost of a look."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from subspace_lab.optim.options import OF_OTHERS_TOO, OPTIONS, plain

_GONE = object()
_BY_THEMSELVES = frozenset({"lr", "betas", "eps", "weight_decay", "scale"})  # sound whatever else is in the group
_CHANGE_IN_PLACE = {list, Tensor}
_LOOKED_AT = {"cpu", "meta"}  # devices of tensors; on others a look would wait for the device


@dataclass(frozen=True)
class Checked:
    """A group as it was when it was found sound.

    Attributes:
        values: Its options.
        params: Its list of parameters.
        number: How many they were.
    """

    values: dict[str, Any]
    params: list[Tensor]
    number: int


def checked(group: dict[str, Any], known: Iterable[str]) -> Checked:
    """Remember a sound group.

    Args:
        group: One of ``param_groups``.
        known: Options that it may have.

    Returns:
        What to compare it with later.
    """
    params = group["params"]
    return Checked({name: group[name] for name in known if name in group}, params, len(params))


def edited(group: dict[str, Any], before: Checked) -> list[str]:
    """Options that may be others than they were.

    Args:
        group: One of ``param_groups``.
        before: What it was.

    Returns:
        Names; ``"params"`` where there are more or fewer parameters, or another list of them.
    """
    get = group.get
    names = [n for n, value in before.values.items() if get(n, _GONE) is not value or type(value) in _CHANGE_IN_PLACE]
    params = group["params"]
    return names if params is before.params and len(params) == before.number else [*names, "params"]


def check_edited(group: dict[str, Any], names: Iterable[str], where: str) -> bool:
    """Refuse values that are not sound; numbers of numpy become Python's, as they did when the group was made.

    Args:
        group: One of ``param_groups``.
        names: Options that may be others than they were.
        where: Which group it is, for messages.

    Returns:
        Whether the group as a whole has to be checked too.

    Raises:
        ValueError: One line.
    """
    for name in names:
        if name == "params":
            continue
        if name not in group:
            raise ValueError(f"{where} has lost {name}; put it back")
        if name in OF_OTHERS_TOO:
            raise ValueError(
                f"{where} has another {name} than at first, where {OF_OTHERS_TOO[name]}: build a new optimizer to "
                f"change it, and give nobody else's {name} to its groups"
            )
        value = plain(group[name], name)
        if type(value) is not list:  # which somebody may hold and change
            group[name] = value
        if not isinstance(value, Tensor) or value.device.type in _LOOKED_AT:
            OPTIONS[name].check(f"{where}: {name}", value)
    return not _BY_THEMSELVES.issuperset(names)
