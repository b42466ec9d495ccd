"""What cannot be combined, found out before anything runs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from subspace_lab.studies.safety.kinds import Policy, Task
from subspace_lab.studies.safety.stages import DEFENSES, Chain, Defense

_POOLS = ("safety", "harm")


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """How a model is tuned, as far as defenses depend on it.

    Attributes:
        optimizer: Its name, as `subspace_lab.optim` has it.
        is_lora: Whether adapters are trained.
        accumulation: Micro-batches of a step.
        processes: How many share a step.
        lacks: What the study does not have, of what a defense may need: ``base`` for example.
    """

    optimizer: str = "adamw"
    is_lora: bool = False
    accumulation: int = 1
    processes: int = 1
    lacks: Collection[str] = ()


def unsupported(defense: Defense | Chain, regime: Conditions, policy: Policy, task: Task) -> str | None:  # noqa: ARG001
    """Why defenses cannot act under some conditions.

    Args:
        defense: One, or a chain of all stages.
        regime: The conditions.
        policy: Whose rows they would draw from.
        task: What is tuned for; no shipped defense depends on it.

    Returns:
        The reason in one line, of the first that cannot; None where all can.
    """
    if regime.is_lora and regime.optimizer != "adamw":
        return f"adapters are trained by adamw here, not by {regime.optimizer}"
    chain = defense if isinstance(defense, Chain) else Chain((defense,))
    return next((why for one in chain.defenses if (why := _alone(one, regime, policy))), None) or _together(chain)


def _alone(defense: Defense, regime: Conditions, policy: Policy) -> str | None:
    name = DEFENSES.name_of(type(defense))
    if missing := sorted(defense.needs & {*regime.lacks}):
        return f"{name} needs {missing[0]}; the study has none"
    if wanted := [kind for kind in _POOLS if kind in defense.needs]:
        pools = policy.pools(0)
        if missing := [kind for kind in wanted if not getattr(pools, kind)]:
            return f"{name} needs {missing[0]} rows; the policy has none"
    if "system_prompt" in defense.needs and not policy.system_prompt:
        return f"{name} needs a system prompt; the policy has none"
    if defense.stage == "train" and defense.whole_model and regime.optimizer == "badam":
        return f"{name} compares gradients of the whole model; badam has one block at a time"
    if defense.whole_batch and regime.accumulation > 1:
        return f"{name} needs a step of one batch; there are {regime.accumulation} micro-batches"
    if defense.stage != "repair" and regime.processes > 1:
        return f"{name} acts in a step of one process; there are {regime.processes}"
    return None


def _together(chain: Chain) -> str | None:
    for stage in ("align", "train"):
        acting = chain.of(stage).defenses
        names = [DEFENSES.name_of(type(one)) for one in acting]
        batch = [name for name, one in zip(names, acting, strict=True) if one.replaces_batch]
        if len(batch) > 1:
            return f"{batch[0]} and {batch[1]} both choose the rows of a step"
        if late := [name for name, one in zip(names[1:], acting[1:], strict=True) if one.replaces_loss]:
            return f"{late[0]} has a loss of its own on the rows that are trained on; write it before {names[0]}"
    return None
