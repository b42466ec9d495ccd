"""What is trained beside a plan at equal bytes: the default with one thing of the plan, and other ranks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from subspace_lab.analysis import LayerPlan, Plan, noise
from subspace_lab.analysis.budget import Choice, fit_ranks, state_bytes
from subspace_lab.runs import Run
from subspace_lab.training import RestoredCheckpoints
from subspace_lab.training.checkpoint import checkpoint_steps

if TYPE_CHECKING:
    import pandas as pd

Shapes = Mapping[str, tuple[int, int]]
Choices = dict[str, list[Choice]]
_SEQUENCES, _MICRO_BATCH = 24, 4  # of the split batches, at every checkpoint
_OF_REFRESH = ("rule", "update_interval", "walk_step")
_OF_DEFAULT = {"rule": "walk", "update_interval": 200, "walk_step": 0.1, "recovery": "scaled"}


def oriented_shapes(table: pd.DataFrame) -> dict[str, tuple[int, int]]:
    """Shape (m, n) of every layer in an energy table."""
    found = table.groupby("layer", observed=True, sort=False)[["m", "n"]].first()
    return {str(name): (int(m), int(n)) for name, m, n in found.itertuples()}


def with_ranks(plan: Plan, ranks: Mapping[str, int], shapes: Shapes, **settings: Any) -> Plan:
    """A plan with other ranks, and other settings of every layer."""
    layers = [
        dataclasses.replace(
            layer,
            **settings,
            rank=ranks[layer.layer],
            state_bytes=state_bytes(*shapes[layer.layer], ranks[layer.layer]),
        )
        for layer in plan.layers
    ]
    return Plan(tuple(layers), plan.steps)


def one_thing(plan: Plan, rank: int, shapes: Shapes) -> dict[str, Plan]:
    """The default of one rank with one thing from the plan, and the plan with one thing from the default.

    Args:
        plan: The plan.
        rank: Of the default, which has no fewer bytes.
        shapes: m and n by layer.

    Returns:
        Plans by what they are.
    """
    uniform = {layer.layer: rank for layer in plan.layers}
    default = with_ranks(plan, uniform, shapes, **_OF_DEFAULT)
    own = {layer.layer: layer.rank for layer in plan.layers}
    return {
        "ranks of the plan": with_ranks(plan, own, shapes, **_OF_DEFAULT),
        "refresh of the plan": _mixed(default, plan, _OF_REFRESH),
        "recovery of the plan": _mixed(default, plan, ("recovery",)),
        "plan, all recovered": with_ranks(plan, own, shapes, recovery="scaled"),
    }


def _mixed(base: Plan, other: Plan, names: Sequence[str]) -> Plan:
    """A plan with some settings of another one."""

    def layer(one: LayerPlan, two: LayerPlan) -> LayerPlan:
        return dataclasses.replace(one, **{name: getattr(two, name) for name in names})

    return Plan(tuple(map(layer, base.layers, other.layers)), base.steps)


def by_energy(table: pd.DataFrame, shapes: Shapes) -> Choices:
    """What ranks gain by the energy that own spaces hold.

    Args:
        table: An energy table.
        shapes: m and n by layer.

    Returns:
        Layer to its measured ranks.
    """
    own = table[table["basis"] == "own"].groupby(["layer", "rank"], observed=True, sort=False)["fraction"].mean()
    return {
        layer: _choices(shape, [int(rank) for rank in own[layer].index], own[layer].to_numpy())
        for layer, shape in shapes.items()
    }


def by_split_batches(run: Run, ranks: Sequence[int], shapes: Shapes) -> Choices:
    """What ranks gain by the signal that a basis of one half of a batch holds of the other half, at the checkpoints.

    Args:
        run: A run with checkpoints.
        ranks: Ranks.
        shapes: m and n by layer.

    Returns:
        Layer to ranks.
    """
    checkpoints = RestoredCheckpoints.of(run)
    sums: dict[str, Any] = {layer: np.zeros(len(ranks)) for layer in shapes}
    for _, module in checkpoints.models():
        batch = checkpoints.probe(_SEQUENCES, next(module.parameters()).device)
        for place, rank in enumerate(ranks):
            table = noise(
                module, checkpoints.loss, batch, tuple(shapes), rank=rank, micro_batch=_MICRO_BATCH,
                batch_size=checkpoints.batch_size,
            )  # fmt: skip
            parts = {part: rows.set_index("layer") for part, rows in table.groupby("part")}
            energy = parts["all"]["signal"] + parts["all"]["noise"] / checkpoints.batch_size
            for layer, share in (parts["core"]["signal"] / energy).items():
                sums[str(layer)][place] += float(share)
    count = len(checkpoint_steps(run.path))
    return {layer: _choices(shapes[layer], ranks, np.maximum.accumulate(each / count)) for layer, each in sums.items()}


def _choices(shape: tuple[int, int], ranks: Sequence[int], gains: Any) -> list[Choice]:
    m, n = shape
    return [Choice(rank, float(gain) * m * n, state_bytes(m, n, rank)) for rank, gain in zip(ranks, gains, strict=True)]


def allocated(plan: Plan, choices: Choices, rank: int, shapes: Shapes) -> Plan:
    """The default with ranks that gain most at no more bytes than those of one rank."""
    budget = sum(state_bytes(*shapes[layer.layer], rank) for layer in plan.layers)
    return with_ranks(plan, fit_ranks(choices, budget), shapes, **_OF_DEFAULT)


def probe_plans(plan: Plan, rank: int, shapes: Shapes, kinds: Mapping[str, str]) -> dict[str, Plan]:
    """The default of one rank, and with half or twice the rank in the layers of one kind.

    Args:
        plan: The plan, for its layers.
        rank: Of the default.
        shapes: m and n by layer.
        kinds: Kind by layer.

    Returns:
        By ``probe`` and ``probe KIND half`` or ``double``.
    """
    uniform = {layer.layer: rank for layer in plan.layers}
    found = {"probe": with_ranks(plan, uniform, shapes, **_OF_DEFAULT)}
    for kind in dict.fromkeys(kinds.values()):
        for word, other in (("half", max(rank // 2, 1)), ("double", 2 * rank)):
            ranks = {layer: other if kinds[layer] == kind else each for layer, each in uniform.items()}
            found[f"probe {kind} {word}"] = with_ranks(plan, ranks, shapes, **_OF_DEFAULT)
    return found


def by_probes(losses: Mapping[str, float], rank: int, shapes: Shapes, kinds: Mapping[str, str]) -> Choices:
    """What ranks gain by how much lower the loss of short trainings is, shared evenly by the layers of a kind.

    Between half, once and twice the rank the gain is linear in the rank.

    Args:
        losses: Mean held-out loss by the names of `probe_plans`.
        rank: Of the default.
        shapes: m and n by layer.
        kinds: Kind by layer.

    Returns:
        Layer to ranks from half to twice the rank.
    """
    least = max(rank // 2, 1)
    found: Choices = {}
    for layer, kind in kinds.items():
        number = [*kinds.values()].count(kind)
        at = [losses["probe"] - losses[f"probe {kind} {word}"] for word in ("half", "double")]
        gains = np.interp(ranks := [*range(least, 2 * rank + 1)], [least, rank, 2 * rank], [at[0], 0, at[1]]) / number
        m, n = shapes[layer]
        found[layer] = [
            Choice(each, float(gain), state_bytes(m, n, each)) for each, gain in zip(ranks, gains, strict=True)
        ]
    return found


def save(plans: Mapping[str, Plan], directory: Path) -> dict[str, dict[str, Any]]:
    """Write plans and return them as methods of a comparison."""
    found = {}
    for name, plan in plans.items():
        path = directory / f"{name.replace(' ', '_').replace(',', '')}.json"
        plan.save(path)
        found[name] = {"optimizer": "subspaceadam", "plan": str(path)}
    return found
