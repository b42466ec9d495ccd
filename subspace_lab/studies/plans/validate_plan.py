"""A plan against the default at equal state: what has to be trained to compare them, and what came out."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from subspace_lab.analysis import Plan
from subspace_lab.experiments.statistics import best_rows, paired
from subspace_lab.experiments.variants import left_open
from subspace_lab.optim.planned_state import Shapes, planned_bytes, rank_with_bytes
from subspace_lab.runs import Run, RunError
from subspace_lab.training import TrainConfig
from subspace_lab.training.memory import trained_shapes
from subspace_lab.training.places import task_of_run
from subspace_lab.training.workers import ALONE


@dataclass(frozen=True)
class Validation:
    """What to train to validate a plan: the arguments of `subspace_lab.compare`.

    Attributes:
        path: Directory of the comparison.
        methods: Settings by name: ``plan``, ``default`` (GrassWalk of one rank) and, if wanted, ``adamw``.
        config: What all trainings have in common.
    """

    path: Path
    methods: dict[str, dict[str, Any]]
    config: TrainConfig


def validation(
    run: Run,
    plan: Plan,
    *,
    steps: int | None = None,
    adamw: bool = True,
    data: str | None = None,
    model: str | None = None,
    tokenizer: str | None = None,
) -> Validation:
    """Prepare the comparison of a plan with GrassWalk at its defaults, on the model and data of a run.

    The default has one rank for all matrices of attention and MLP: the smallest with which the states of all trained
    parameters need no fewer bytes than the plan's. Layers that the run did not capture are not planned: they are
    full-rank AdamW, and count as that. All methods see the same batches, each at a setting of its own that the tuned
    protocol finds. The plan was measured on the run's seed; with seed 0 this is one of the compared seeds.

    Args:
        run: A run of `subspace_lab.train`.
        plan: From `subspace_lab.recommend`; a copy of it is kept in ``check/plan.json`` of the run.
        steps: Of each training; None for as many as the run.
        adamw: Whether AdamW is compared too.
        data: Path or glob of the run's data if they have moved; the hash of their tokens must be the run's.
        model: Path of its pretrained model, likewise.
        tokenizer: Path of its tokenizer, likewise.

    Returns:
        What to train, in ``check/comparison`` of the run.

    Raises:
        RunError: If the run was not trained here, its data are not found or differ, or its directory holds the check of
            another plan.
        ValueError: If an argument is wrong.
    """
    values = run.manifest.get("config")
    if values is None:
        raise RunError(f"{run.path} was not trained by subspace-lab train, so that a plan for it cannot be checked")
    config = TrainConfig.from_dict(values)
    path = run.path / "check"
    plan_path = path.resolve() / "plan.json"
    begun = plan_path.exists() and (path / "comparison").exists()  # a call that was refused leaves the plan alone
    if begun and not _holds(plan_path, plan):
        raise RunError(f"{path} holds the check of another plan; remove it to check this one")
    if "data_hash" in run.manifest:
        config, _ = task_of_run(run, config, ALONE, data=data, model=model, tokenizer=tokenizer)
    plan.save(plan_path)
    shorter = config if steps is None else dataclasses.replace(config, steps=steps)
    base = left_open(dataclasses.replace(shorter, eval_every=config.eval_every or shorter.steps))
    methods = methods_of(plan_path, uniform_rank(trained_shapes(config), plan))
    return Validation(path / "comparison", methods | ({"adamw": {"optimizer": "adamw"}} if adamw else {}), base)


def methods_of(plan_path: Path, rank: int) -> dict[str, dict[str, Any]]:
    """Settings of the plan and of the default, GrassWalk of one rank."""
    return {
        "plan": {"optimizer": "subspaceadam", "plan": str(plan_path)},
        "default": {"optimizer": "grasswalk", "rank": rank},
    }


def gap_to(results: pd.DataFrame, method: str = "default") -> dict[str, float]:
    """Held-out loss of the plan minus that of a method, each at its best setting; as `paired` returns it."""
    rows = best_rows(results).set_index("seed")
    plan, other = (rows.loc[rows["method"] == name, "eval_loss"] for name in ("plan", method))
    return paired(plan, other)


def uniform_rank(shapes: Shapes, plan: Plan) -> int:
    """The smallest rank of GrassWalk that needs no fewer state bytes for all `shapes` than the plan; at most m."""
    return rank_with_bytes(shapes, planned_bytes(shapes, plan.to_dict()))


def _holds(path: Path, plan: Plan) -> bool:
    try:
        return Plan.load(path) == plan
    except RunError:  # whatever it was, it is not this one
        return False
