"""An optimizer from a plan: settings of every layer as they were measured."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, Unpack

from torch import nn

from subspace_lab._checks import check_choice
from subspace_lab._names import named_parameters
from subspace_lab._paths import local_path
from subspace_lab._reading import read_json
from subspace_lab._text import nearest
from subspace_lab.optim.base import Group
from subspace_lab.optim.options import OPTIONS, Options, check_options, plain
from subspace_lab.optim.roles import Role, roles_of
from subspace_lab.optim.rules import RULES
from subspace_lab.optim.subspace_adam import SubspaceAdam

VERSION = 1
_SETTINGS = ("rank", "update_interval", "rule", "walk_step", "swaps", "recovery")


class PlanLike(Protocol):
    """Whatever can say its plan, such as what `subspace_lab.recommend` returns."""

    def to_dict(self) -> Mapping[str, Any]:
        """``{"layers": [{"layer": name, "rank": r, ...}, ...]}``."""


def from_plan(
    model: nn.Module,
    plan: PlanLike | Mapping[str, Any] | str | Path,
    lr: float | None = None,
    **options: Unpack[Options],
) -> SubspaceAdam:
    """The optimizer that a plan describes: every planned layer with its own settings, everything else full-rank AdamW.

    Args:
        model: The model that was measured, or one with the same parameter names.
        plan: What `subspace_lab.recommend` returned, the path of its plan.json, or its content: ``layers``, a list of
            objects with ``layer`` (canonical parameter name) and ``rank``, and where they are not to be the defaults
            ``update_interval``, ``rule``, ``walk_step``, ``swaps`` and ``recovery``.
        lr: Learning rate.
        options: Of all layers, where the plan says nothing: ``moments=``, ``weight_decay=``, ``scale=``, ...

    Returns:
        The optimizer; layers with the same settings share a group. The matrices of a stack of experts, a layer each in
        a plan, are one parameter: it gets the largest of their ranks and the shortest of their intervals.

    Raises:
        TypeError: If `model` is not a module.
        ValueError: If it is not a plan, a setting is impossible, or a layer is not a trainable parameter of the model.
        OSError: If the file cannot be read.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"from_plan takes the model itself, got {type(model).__name__}")
    trainable = named_parameters(model, trainable=True)
    groups: dict[tuple[Any, ...], Group] = {}
    planned = set()
    for name, settings in _whole(map(_settings, _layers(plan)), roles_of(model)):
        if name not in trainable or name in planned:
            raise ValueError(_not_there(name, list(trainable), type(model).__name__, twice=name in planned))
        planned.add(name)
        group = groups.setdefault(tuple(settings.items()), {"params": [], "param_names": [], **settings})
        group["params"].append(trainable[name])
        group["param_names"].append(name)
    if useless := [key for key in _SETTINGS if key in options and all(key in group for group in groups.values())]:
        raise ValueError(f"{useless[0]} has no effect: the plan says it of every layer; leave it out")
    rest = [name for name in trainable if name not in planned]
    full = [{"params": [trainable[name] for name in rest], "param_names": rest, "rank": None}] if rest else []
    return SubspaceAdam([*groups.values(), *full], lr, **options)


def _whole(layers: Iterable[tuple[str, Group]], roles: Mapping[str, Role]) -> list[tuple[str, Group]]:
    """The matrices of a stack (experts in one tensor) as one parameter: a state has one rank, that of the largest."""
    found: list[tuple[str, Group]] = []
    stacks: dict[str, dict[str, Group]] = {}
    for name, settings in layers:
        stack = re.fullmatch(r"(.*)\[(\d+)\]", name)
        if name in roles or stack is None or stack[1] not in roles:
            found.append((name, settings))
            continue
        if name in stacks.setdefault(stack[1], {}):
            raise ValueError(f"the plan has {name} twice")
        stacks[stack[1]][name] = settings
    for name, parts in stacks.items():
        number = roles[name].matrices
        if outside := [part for part in parts if int(part.rpartition("[")[2][:-1]) >= number]:
            raise ValueError(f"the plan has {outside[0]}, and {name} is {number} matrices")
        largest = max(parts.values(), key=lambda settings: settings.get("rank", 0))
        often = [part["update_interval"] for part in parts.values() if "update_interval" in part]
        found.append((name, {**largest, **({"update_interval": min(often)} if often else {}), "splits": number}))
    return found


def read_plan(path: str | Path) -> Any:
    """The content of a plan's file, whatever it is.

    Args:
        path: The file.

    Returns:
        What JSON makes of it.

    Raises:
        ValueError: If it is not JSON, or not a regular file.
        OSError: If it cannot be read.
    """
    file = local_path(path)
    try:
        return read_json(file)
    except OSError as error:
        if error.errno is None:
            raise ValueError(
                f"the plan {path} cannot be read: {error}; subspace-lab recommend RUN_DIR writes one"
            ) from error
        raise
    except ValueError as error:
        raise ValueError(f"{path} is no JSON; subspace-lab recommend RUN_DIR writes a plan") from error


def _layers(plan: PlanLike | Mapping[str, Any] | str | Path) -> list[Mapping[str, Any]]:
    content: Any = plan
    if isinstance(plan, str | Path):
        content = read_plan(plan)
    elif not isinstance(plan, Mapping) and hasattr(plan, "to_dict"):
        content = plan.to_dict()
    said = plan if isinstance(plan, str | Path) else type(plan).__name__
    if isinstance(content, Mapping) and (version := content.get("format_version", VERSION)) != VERSION:
        raise ValueError(f"{said} is a plan of format version {version}, this release reads {VERSION}; write it again")
    layers = content.get("layers") if isinstance(content, Mapping) else None
    if not isinstance(layers, list | tuple) or not layers or not all(map(_says_enough, layers)):
        raise ValueError(f"{said} is no plan: it needs layers, each with layer and rank; see subspace_lab.recommend")
    return list(layers)


def _says_enough(layer: object) -> bool:
    return isinstance(layer, Mapping) and {"layer", "rank"} <= set(layer)


def _settings(layer: Mapping[str, Any]) -> tuple[str, Group]:
    """Name and settings of a layer; what is None is left to the defaults."""
    name, settings = str(layer["layer"]), {key: plain(layer[key]) for key in _SETTINGS if layer.get(key) is not None}
    if others := [key for key in layer if key in OPTIONS and key not in _SETTINGS]:
        those = ", ".join(_SETTINGS)
        raise ValueError(f"the plan has {name} with {others[0]}, which is not a setting of a layer; these are: {those}")
    try:
        check_options({key: value for key, value in settings.items() if not hasattr(value, "refresh")})  # not rules
        if isinstance(rule := settings.get("rule"), str):
            check_choice("rule", rule, RULES)
    except ValueError as error:
        raise ValueError(f"the plan has {name}, where {error}") from None
    return name, settings


def _not_there(name: str, known: list[str], owner: str, *, twice: bool) -> str:
    if twice:
        return f"the plan has {name} twice"
    return f"the plan has {name}, which is not a trainable parameter of {owner}; nearest: {nearest(name, known)}"
