"""What is trained: settings by the name that tables have for them. A cell that several figures need has one name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from subspace_lab.studies.grass_paper.profiles import Profile

Variants = dict[str, dict[str, Any]]

MOMENTS = ("keep", "transport")
RECOVERIES = ("none", "limited", "free")  # free: the limiter is off
_NAMED = {"walk": "grasswalk", "jump": "grassjump", "track": "subtrack"}  # with transport and the limiter


def part_settings(rule: str, moments: str, recovery: str) -> dict[str, Any]:
    """Settings of one cell of the ablation.

    Args:
        rule: Of `subspace_lab.optim.rules`.
        moments: ``keep`` or ``transport`` (AO).
        recovery: One of `RECOVERIES`.

    Returns:
        Of a method of a comparison.
    """
    settings = {"optimizer": "subspaceadam", "rule": rule, "moments": moments}
    if recovery == "none":
        return {**settings, "recovery": "none"}
    return {**settings, "recovery": "scaled", **({"zeta": None} if recovery == "free" else {})}


def part_name(rule: str, moments: str, recovery: str) -> str:
    """What the tables call a cell of the ablation; those that are a method have the method's name.

    Args:
        rule: Of the basis.
        moments: ``keep`` or ``transport``.
        recovery: One of `RECOVERIES`.

    Returns:
        The name.

    >>> part_name("svd", "keep", "none"), part_name("svd", "transport", "free")
    ('svd', 'svd+AO+RS free')
    >>> part_name("walk", "transport", "limited")
    'grasswalk'
    """
    if (moments, recovery) == ("transport", "limited") and rule in _NAMED:
        return _NAMED[rule]
    marks = {"none": "", "limited": "+RS", "free": "+RS free"}
    return rule + ("+AO" if moments == "transport" else "") + marks[recovery]


def ablation_cells(profile: Profile) -> Iterator[tuple[str, str, str]]:
    """Rule, moments and recovery of every cell of the ablation."""
    for moments in MOMENTS:
        for recovery in RECOVERIES:
            for rule in profile.rules:
                yield rule, moments, recovery


def _with(rule: str, moments: str, recovery: str, **options: Any) -> dict[str, Any]:
    """The settings of a cell: by its method's name where it has one, so that no cell is trained twice."""
    name = part_name(rule, moments, recovery)
    settings = {"optimizer": name} if name in _NAMED.values() else part_settings(rule, moments, recovery)
    return {**settings, **options}


def ablation(profile: Profile) -> Variants:
    """Rule x AO x RS, RS with the limiter and without."""
    return {part_name(*parts): _with(*parts) for parts in ablation_cells(profile)}


def methods(profile: Profile) -> Variants:
    """Every method, AdamW included; of the larger size too where the profile has one."""
    small: Variants = {name: {"optimizer": name} for name in profile.methods}
    if not profile.larger:
        return small
    return small | {f"{name} {profile.larger['preset']}": _larger(name, profile.larger) for name in profile.methods}


def _larger(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    has_none = {"adamw": {"rank", "update_interval"}, "badam": {"rank"}}.get(name, set())
    return {"optimizer": name, **{key: value for key, value in settings.items() if key not in has_none}}


def sensitivity_of(profile: Profile) -> dict[str, tuple[str, Any]]:
    """Setting and value by the name of the variant of GrassWalk; the usual ones go by GrassWalk's own name."""
    usual = {
        "rank": profile.config.rank, "update_interval": profile.config.update_interval, "walk_step": 0.1, "zeta": 1.01,
        "scale": 1.0,
    }  # fmt: skip
    grids = {
        "rank": profile.ranks, "update_interval": profile.intervals, "walk_step": profile.walk_steps,
        "zeta": profile.zetas, "scale": profile.scales,
    }  # fmt: skip
    varied = {
        f"grasswalk {setting}={value:g}": (setting, value)
        for setting, values in grids.items()
        for value in values
        if value != usual[setting]
    }
    return varied | {part_name("walk", "transport", "free"): ("zeta", None)}


def sensitivity(profile: Profile) -> Variants:
    """GrassWalk with one setting changed."""
    changed = {name: {"optimizer": "grasswalk", setting: value} for name, (setting, value) in
               sensitivity_of(profile).items() if value is not None}  # fmt: skip
    return {"grasswalk": {"optimizer": "grasswalk"}, **changed} | {
        part_name("walk", "transport", "free"): _with("walk", "transport", "free")
    }


RANDOM_RULES = ("walk", "hybrid", "jump", "coordinates")


def random_bases(profile: Profile) -> Variants:  # noqa: ARG001
    """Random bases of four kinds, with transport, with the limiter and without."""
    return {
        part_name(rule, "transport", recovery): _with(rule, "transport", recovery)
        for recovery in ("limited", "free")
        for rule in RANDOM_RULES
    }


def captured(profile: Profile) -> Variants:
    """Runs whose gradients are kept: AdamW's for the first figures, every method's for the relation to the loss."""
    steps = profile.config.resolved().steps
    assert steps is not None
    keeps = {"every": max(1, steps // profile.captures), "keep": "gram"}
    return {f"{CAPTURED}{name}": {"optimizer": name, **keeps} for name in profile.methods}


CAPTURED = "captured "
