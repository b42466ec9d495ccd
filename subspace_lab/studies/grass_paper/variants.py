"""What is trained: settings by the name that tables have for them. What several quantities need has one name.

What a quantity alone trains is in its file in `quantities`.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from subspace_lab.optim import method_named
from subspace_lab.studies.grass_paper.profiles import NULL, Profile
from subspace_lab.training.optimizers import settings_of

Variants = dict[str, dict[str, Any]]

RANDOM_NULL = "random basis, never moved"
MOMENTS = ("keep", "transport")  # transport: AO
RECOVERIES = ("none", "limited", "free")  # free: the limiter is off
_NAMED = {"walk": "grasswalk", "jump": "grassjump", "track": "subtrack"}  # with transport and the limiter


def part_settings(rule: str, moments: str, recovery: str) -> dict[str, Any]:
    """Settings of a combination of the ablation: a rule of `subspace_lab.optim`, one of `MOMENTS`, of `RECOVERIES`."""
    settings = {"optimizer": "subspaceadam", "rule": rule, "moments": moments}
    if recovery == "none":
        return {**settings, "recovery": "none"}
    return {**settings, "recovery": "scaled", **({"zeta": None} if recovery == "free" else {})}


def part_name(rule: str, moments: str, recovery: str) -> str:
    """The name of a combination in the tables: the method's name where it is one.

    Returns:
        The rule, with ``+AO`` for transported moments and ``+RS`` for recovery.

    >>> part_name("svd", "keep", "none"), part_name("svd", "transport", "free")
    ('svd', 'svd+AO+RS free')
    >>> part_name("walk", "transport", "limited")
    'grasswalk'
    """
    if (moments, recovery) == ("transport", "limited") and rule in _NAMED:
        return _NAMED[rule]
    marks = {"none": "", "limited": "+RS", "free": "+RS free"}
    return rule + ("+AO" if moments == "transport" else "") + marks[recovery]


def part(rule: str, moments: str, recovery: str, **options: Any) -> dict[str, Any]:
    """Settings of a combination: by its method's name where it has one, so that none is trained twice."""
    name = part_name(rule, moments, recovery)
    settings = {"optimizer": name} if name in _NAMED.values() else part_settings(rule, moments, recovery)
    return {**settings, **options}


def methods(profile: Profile) -> Variants:
    """Every method, AdamW included, and the two nulls: a basis that is never moved, the first gradient's or random."""
    random_null = {"optimizer": "grassjump", "update_interval": profile.base.steps}
    nulls = {NULL: part("frozen", "transport", "limited"), RANDOM_NULL: random_null}
    return {name: {"optimizer": name} for name in profile.methods} | nulls


def tuned(profile: Profile) -> Variants:
    """What is tuned over all settings: every method, and every rule of the ablation with AO and RS."""
    return methods(profile) | {
        part_name(rule, "transport", "limited"): part(rule, "transport", "limited") for rule in profile.rules
    }


def donor(settings: dict[str, Any], among: Container[str]) -> str:
    """The method whose setting a variant inherits: its rule with AO and RS; GrassWalk where this is not in `among`."""
    rules = {method: rule for rule, method in _NAMED.items()}
    rule = settings.get("rule") or rules.get(settings["optimizer"], "walk")
    name = part_name(rule, "transport", "limited")
    return name if name in among else "grasswalk"


def larger(profile: Profile) -> Variants:
    """The methods of the larger size, by their name and the size; none where the profile has one size."""
    size = profile.larger
    if size is None:
        return {}
    both, found = tuned(profile), Variants()
    for name in size.methods:
        has = settings_of(method_named(both[name]["optimizer"]), {})
        own = {
            key: value for key, value in size.settings.items() if key not in {"rank", "update_interval"} or key in has
        }
        found[f"{name} {size.settings['preset']}"] = {**both[name], **own}
    return found


def adamw(profile: Profile) -> Variants:  # noqa: ARG001
    """AdamW alone, whose captured runs most quantities of gradients are measured in."""
    return {"adamw": {"optimizer": "adamw"}}


def every_seed(profile: Profile) -> dict[str, int]:
    """How many seeds of AdamW are captured: all of them."""
    return {"adamw": profile.seeds}


def keeps(profile: Profile) -> dict[str, Any]:
    """Settings of a run whose gradients are kept."""
    steps = profile.base.steps
    assert steps is not None
    return {"every": max(1, steps // profile.captures), "keep": "gram"}
