"""The kind of a parameter: what it is for in every block, so that layers of one role can be distinguished from others.

A kind is the name of the module, ``q_proj``, and where several roles share that as much of its parents as it takes to
tell them apart, ``attn.c_proj`` and ``mlp.c_proj``. What says a place and not a role does not count: numbers, the path
to the block, names of adapters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import nn

from subspace_lab._names import named_modules, named_parameters

Role = tuple[str, ...]
_ADAPTER = re.compile(r"(lora|ia3|hada|lokr|vera|oft|boft|randlora|dora)(_|$)", re.IGNORECASE)
_AROUND = frozenset({"base_layer", "original_module", "modules_to_save", "parametrizations"})
_ATTRIBUTE = re.compile(r"^(weight|bias)(_|$)|_(weight|bias)$|_l\d+(?=_|$)|^original$")


def kinds_of(model: nn.Module) -> dict[str, str]:
    """The kind of every parameter of a model.

    A parameter with a name of its own (``in_proj_weight``, ``weight_ih_l0``, an expert's ``gate_up_proj``) has that as
    its module's name, without ``weight``, ``bias`` and the number of the layer. An adapter's matrix is called by the
    layer that it adapts, too: ``q_proj.lora_A``. Positions in a Sequential count where it stands in a block and has
    several layers; a layer without any name has that of its class in lower case.

    Args:
        model: The model, wrapped or not, with frozen parameters and without.

    Returns:
        Canonical name -> kind.

    >>> part = lambda: nn.ModuleDict({"out": nn.Linear(2, 2, bias=False)})
    >>> kinds_of(nn.ModuleList([nn.ModuleDict({"attn": part(), "mlp": part()})]))
    {'0.attn.out.weight': 'attn.out', '0.mlp.out.weight': 'mlp.out'}
    """
    modules = named_modules(model)
    roles, places = {}, {}
    for name in named_parameters(model):
        roles[name], places[name] = _role(name, modules)
    several: dict[Role, set[str]] = {}
    for name, role in roles.items():
        several.setdefault(role, set()).add(places[name])
    for name, role in roles.items():
        if len(several[role]) > 1 and places[name]:
            roles[name] = (*role[:-1], f"{role[-1]}.{places[name]}")
    short = _shortest(set(roles.values()))
    return {name: short[role] for name, role in roles.items()}


def _role(name: str, modules: Mapping[str, nn.Module]) -> tuple[Role, str]:
    """What tells a parameter from others of its block, and its position in a Sequential that it is directly in."""
    *path, attribute = name.split(".")
    before: list[str] = []
    words: list[str] = []
    in_block, is_part, place = False, False, ""
    for depth, part in enumerate(path):
        holder = modules.get(".".join(path[:depth]))
        if part.isdecimal():
            place = part if in_block and isinstance(holder, nn.Sequential) and depth == len(path) - 1 else ""
            if not in_block and len(part) <= 4:
                before, words, in_block = words, [], True
        elif part in _AROUND:
            is_part = is_part or part == "parametrizations"
        elif not _is_adapters_name(path, depth, modules):
            is_part = is_part or bool(_ADAPTER.match(part)) or hasattr(holder, "base_layer")
            _add(words, part, is_part)
    own = _ATTRIBUTE.sub("", attribute)
    if own and not own.isdecimal() and not _is_adapters_name([*path, attribute], len(path), modules):
        _add(words, own, is_part or bool(_ADAPTER.match(own)))
    if not words and not before:
        module = modules.get(".".join(path), nn.Module())
        cls = next(c for c in type(module).__mro__ if not c.__name__.startswith("FSDP"))  # as it was before sharding
        words = [cls.__name__.lower()]
    return tuple(words or before), place


def _add(words: list[str], part: str, is_part: bool) -> None:
    """A word of its own, or a part of the last one that no kind is without."""
    if part in {"weight", "bias"}:  # what a parametrization is of
        return
    if words and is_part:
        words[-1] += f".{part}"
    else:
        words.append(part)


def _is_adapters_name(path: list[str], depth: int, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a component is what a user called an adapter: in a dict of a layer that has a base layer."""
    holder, owner = (modules.get(".".join(path[: depth - back])) if depth >= back else None for back in (0, 1))
    adapts = hasattr(owner, "base_layer") or hasattr(owner, "original_module")
    return adapts and isinstance(holder, nn.ModuleDict | nn.ParameterDict)


def _shortest(roles: Iterable[Role]) -> dict[Role, str]:
    """As few of the last words of every role as no other one ends with."""
    users: dict[Role, set[Role]] = {(): set(roles)}
    for role in users[()]:
        for length in range(1, len(role) + 1):
            users.setdefault(role[-length:], set()).add(role)
    kinds = {}
    for role in users[()]:
        ends = (role[-length:] for length in range(1, len(role)))
        kinds[role] = ".".join(next((end for end in ends if len(users[end]) == 1), role))
    return kinds
