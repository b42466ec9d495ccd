"""A plan against the default at equal state, by training both."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from subspace_lab.analysis import Plan
from subspace_lab.analysis.budget import state_bytes
from subspace_lab.comparison.cells import left_open
from subspace_lab.comparison.comparison import Comparison
from subspace_lab.comparison.statistics import paired
from subspace_lab.comparison.sweep import compare
from subspace_lab.runs import Run, RunError
from subspace_lab.training import TrainConfig

_GRID = (0.5, 1.0, 2.0)  # of the run's own learning rate


def check_plan(
    run: Run,
    plan: Plan,
    *,
    lrs: Sequence[float] | None = None,
    seeds: int = 3,
    steps: int | None = None,
    workers: int | None = None,
    adamw: bool = True,
) -> Comparison:
    """Train the model of a run by its plan and by GrassWalk with its defaults, and compare them.

    The default has one rank for all layers: the smallest whose states take no fewer bytes than the plan's. Both are
    tuned over the same learning rates and see the same batches, and so does AdamW.

    Args:
        run: A run of `subspace_lab.training.train`.
        plan: From `subspace_lab.recommend`.
        lrs: Learning rates; None for half, once and twice the run's own.
        seeds: How many, from 0 on. The plan was measured on one of them, where it began with 0.
        steps: How many each training takes; None for as many as the run.
        workers: How many trainings at a time; by default one per core.
        adamw: Whether AdamW is trained beside them.

    Returns:
        The comparison, in ``check/comparison`` of the run, beside the plan; the same call goes on with it.

    Raises:
        RunError: If the run was not trained here, or its directory holds the check of another plan.
        ValueError: If an argument is wrong.
    """
    values = run.manifest.get("config")
    if values is None:
        raise RunError(f"{run.path} was not trained by subspace-lab train, so that a plan for it cannot be checked")
    config = TrainConfig.from_dict(values)
    assert config.lr is not None
    path = run.path / "check"
    plan_path = path.resolve() / "plan.json"
    begun = plan_path.exists() and (path / "comparison").exists()  # a call that was refused leaves the plan alone
    if begun and not _holds(plan_path, plan):
        raise RunError(f"{path} holds the check of another plan; remove it to check this one")
    plan.save(plan_path)
    shorter = config if steps is None else dataclasses.replace(config, steps=steps)
    base = left_open(dataclasses.replace(shorter, eval_every=config.eval_every or shorter.steps))
    methods: dict[str, dict[str, Any]] = {
        "plan": {"optimizer": "subspaceadam", "plan": str(plan_path)},
        "default": {"optimizer": "grasswalk", "rank": uniform_rank(run, plan)},
    }
    if adamw:
        methods["adamw"] = {"optimizer": "adamw"}
    rates = [config.lr * factor for factor in _GRID] if lrs is None else lrs
    return compare(path / "comparison", methods, lrs=rates, seeds=seeds, config=base, workers=workers)


def _holds(path: Path, plan: Plan) -> bool:
    try:
        return Plan.load(path) == plan
    except RunError:  # whatever it was, it is not this one
        return False


def gap_to(found: Comparison, method: str = "default") -> dict[str, float]:
    """Held-out loss of the plan minus that of another method, each at its best learning rate, paired by seed.

    Args:
        found: From `check_plan`.
        method: The other one.

    Returns:
        ``gap``, ``gap_low`` and ``gap_high`` (95 %) over the seeds that both completed, as
        `subspace_lab.comparison.statistics.paired` has them.
    """
    rates = found.table.set_index("method")["lr"]
    losses = []
    for name in ("plan", method):
        of_method = (found.results["method"] == name) & (found.results["lr"] == rates[name])
        cells = found.results[of_method & (found.results["status"] == "complete")]
        losses.append(cells.set_index("seed")["eval_loss"])
    return paired(*losses)


def uniform_rank(run: Run, plan: Plan) -> int:
    """The smallest rank of all planned layers whose states take no fewer bytes than the plan's.

    Args:
        run: With the layers' shapes.
        plan: What to match.

    Returns:
        The rank; the largest m where no rank takes as many.
    """
    shapes = [
        sorted(shape)
        for shape in run.layers.set_index("name").loc[[x.layer for x in plan.layers], ["rows", "cols"]].to_numpy()
    ]
    largest = max(int(m) for m, _ in shapes)
    ranks = range(1, largest + 1)
    return next((r for r in ranks if sum(state_bytes(m, n, r) for m, n in shapes) >= plan.state_bytes), largest)
