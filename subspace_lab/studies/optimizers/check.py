"""A plan against the default at equal state, by training both."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from subspace_lab.analysis import Plan
from subspace_lab.runs import Run, RunError
from subspace_lab.studies.optimizers.cells import left_open
from subspace_lab.studies.optimizers.comparison import Comparison
from subspace_lab.studies.optimizers.states import Shapes, planned_bytes, rank_with_bytes
from subspace_lab.studies.optimizers.statistics import paired
from subspace_lab.studies.optimizers.sweep import compare
from subspace_lab.training import TrainConfig, parameter_shapes, preset
from subspace_lab.training.models import build_model
from subspace_lab.training.places import tokens_of_run

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
    data: str | None = None,
    model: str | None = None,
    tokenizer: str | None = None,
) -> Comparison:
    """Train the model of a run by its plan and by GrassWalk with its defaults, and compare them.

    The default has one rank for all matrices of attention and MLP: the smallest whose states, of everything that is
    trained, take no fewer bytes than the plan's. What the run did not capture is not planned: it is full-rank AdamW
    there, and counts as that. Both are tuned over the same learning rates and see the same batches, and so does AdamW.

    Args:
        run: A run of `subspace_lab.training.train`.
        plan: From `subspace_lab.recommend`.
        lrs: Learning rates; None for half, once and twice the run's own.
        seeds: How many, from 0 on. The plan was measured on one of them, where it began with 0.
        steps: How many each training takes; None for as many as the run.
        workers: How many trainings at a time; by default one per core.
        adamw: Whether AdamW is trained beside them.
        data: Where the run's data are now, when they are not found any more (a path or glob); the hash of their tokens
            must be the run's.
        model: Where its pretrained model is now, likewise.
        tokenizer: Where its tokenizer is now, likewise.

    Returns:
        The comparison, in ``check/comparison`` of the run, beside the plan; the same call goes on with it.

    Raises:
        RunError: If the run was not trained here, its data are not found or not what they were, or its directory holds
            the check of another plan.
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
        config, _ = tokens_of_run(run, config, data=data, model=model, tokenizer=tokenizer)
    plan.save(plan_path)
    shorter = config if steps is None else dataclasses.replace(config, steps=steps)
    base = left_open(dataclasses.replace(shorter, eval_every=config.eval_every or shorter.steps))
    methods: dict[str, dict[str, Any]] = {
        "plan": {"optimizer": "subspaceadam", "plan": str(plan_path)},
        "default": {"optimizer": "grasswalk", "rank": uniform_rank(trained_shapes(config), plan)},
    }
    if adamw:
        methods["adamw"] = {"optimizer": "adamw"}
    assert config.lr is not None
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
        `subspace_lab.studies.optimizers.statistics.paired` has them.
    """
    rates = found.table.set_index("method")["lr"]
    losses = []
    for name in ("plan", method):
        of_method = (found.results["method"] == name) & (found.results["lr"] == rates[name])
        cells = found.results[of_method & (found.results["status"] == "complete")]
        losses.append(cells.set_index("seed")["eval_loss"])
    return paired(*losses)


def uniform_rank(shapes: Shapes, plan: Plan) -> int:
    """The smallest rank of GrassWalk whose states take no fewer bytes than the plan's, over all that is trained.

    Args:
        shapes: Shape of every trainable parameter by name, the plan's layers among them.
        plan: What to match.

    Returns:
        The rank; the largest m where no rank takes as many.
    """
    return rank_with_bytes(shapes, planned_bytes(shapes, plan.to_dict()))


def trained_shapes(config: TrainConfig) -> Shapes:
    """Names and shapes of the parameters that a configuration trains.

    Args:
        config: A resolved configuration.

    Returns:
        Shape by name.
    """
    if config.preset is not None:
        size = preset(config.preset)
        return parameter_shapes(dataclasses.replace(size, vocab_size=config.vocab_size or size.vocab_size))
    with torch.random.fork_rng(devices=[]):
        model = build_model(config)
    return {name: tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad}
