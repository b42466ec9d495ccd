"""Trainings by plans, by GrassWalk at equal state and by what may explain a difference.

At the root of the repository,

    python -m subspace_lab.studies.plans.study runs/plans

measures a training of a small LLaMA, makes plans of it, trains by each over learning rates and seeds, by GrassWalk of
one rank with no fewer state bytes, and by methods that may explain why one of them is better. Trainings that are
complete in ``runs/plans`` are not repeated. The result is ``results/plans/plans.json``.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from subspace_lab.analysis import Plan, energy, recommend
from subspace_lab.runs import Run
from subspace_lab.runs.files import publish
from subspace_lab.studies.optimizers import Comparison, compare
from subspace_lab.studies.optimizers.check import check_plan, gap_to, trained_shapes, uniform_rank
from subspace_lab.training import TrainConfig, train

RESULT = Path("results", "plans", "plans.json")
COMMAND = "python -m subspace_lab.studies.plans.study"
RATES = (3e-3, 8e-3, 2e-2)
ADAMW_RATES = (3e-4, 1e-3, 3e-3)
TUNING_SEEDS, SEEDS = 3, 5  # at all rates, and at the best of them
INTERVAL = 20
MEASURED = TrainConfig(  # a seed that is none of those that the check trains
    preset="llama-2m", vocab_size=1024, steps=150, batch_size=8, sequence_length=64, lr=3e-3, seed=9,
    precision="float32", threads=1, every=10, checkpoint_every=50, keep_checkpoints=3, eval_every=150, eval_batches=16,
)  # fmt: skip
RANKS = {"free": None, "tight": (1, 2, 3, 4, 6, 8, 12, 16)}  # by setting: that are measured for the plan; None: default
COLUMNS = ["method", "lr", "edge", "seeds", "failed", "eval_loss", "eval_low", "eval_high", "state_bytes"]


def plan_of(run: Run, setting: str) -> Plan:
    """The plan of a setting.

    Args:
        run: A captured run, open for writing.
        setting: A key of `RANKS`.

    Returns:
        The plan.
    """
    energy(run, ranks=RANKS[setting])
    plan = recommend(run)
    return recommend(run, 3 * plan.state_bytes // 4) if setting == "tight" else plan


def measure(run: Run, setting: str) -> dict[str, Any]:
    """Train what a setting compares.

    Args:
        run: A copy of the captured run for this setting alone, open for writing.
        setting: A key of `RANKS`.

    Returns:
        What the JSON file has of a setting.
    """
    plan = plan_of(run, setting)
    rank = uniform_rank(trained_shapes(TrainConfig.from_dict(run.manifest["config"])), plan)
    found = tuned(partial(check_plan, run, plan, workers=1, adamw=False), ("plan", "default"), RATES)
    for name, settings, rates in beside(setting, rank):
        found = tuned(partial(compare, found.path, {name: settings}, workers=1), (name,), rates)
    return summary(found) | {"uniform_rank": rank, "plan": plan.to_dict()}


def beside(setting: str, rank: int) -> list[tuple[str, dict[str, Any], tuple[float, ...]]]:
    """What else is trained in a setting: name, settings and learning rates.

    Args:
        setting: A key of `RANKS`.
        rank: The rank of GrassWalk with no fewer state bytes than the plan.

    Returns:
        The methods.
    """
    walk = {"optimizer": "grasswalk", "rank": rank}
    if setting == "free":
        return [("usual", {**walk, "update_interval": INTERVAL}, RATES), ("adamw", {}, ADAMW_RATES)]
    return [("less", {**walk, "rank": rank - 1}, RATES)]


def tuned(train_at: Callable[..., Comparison], methods: tuple[str, ...], rates: tuple[float, ...]) -> Comparison:
    """Train at all rates on the first seeds, and on all seeds at the best rate of each method.

    Args:
        train_at: Trains methods at ``lrs`` on the first ``seeds``; what is complete is not trained again.
        methods: Their names.
        rates: Learning rates to choose from.

    Returns:
        The comparison.
    """
    table = train_at(lrs=rates, seeds=TUNING_SEEDS).table
    best = table[table["method"].isin(methods)]["lr"]
    return train_at(lrs=sorted(set(best)), seeds=SEEDS)


def summary(found: Comparison) -> dict[str, Any]:
    """What was compared, in numbers.

    Args:
        found: Of `check_plan`, with what was trained beside it.

    Returns:
        ``cells``, ``methods`` (each at its best learning rate) and ``gaps`` (plan minus method, paired by seed).
    """
    cells = found.results[["method", "lr", "seed", "status", "eval_loss"]]
    return {
        "cells": json.loads(cells.to_json(orient="records", double_precision=10)),
        "methods": json.loads(found.table[COLUMNS].to_json(orient="records", double_precision=10)),
        "gaps": {method: gap_to(found, method) for method in found.table["method"] if method != "plan"},
    }


def main(out_dir: str) -> None:
    """Train what is not trained yet, and write the JSON file.

    Args:
        out_dir: Directory of all runs; the same call goes on with it.
    """
    out = Path(out_dir)
    measured = out / "measured"
    if not measured.exists():
        train(measured, MEASURED)
    manifest = Run.open(measured).manifest
    result = {
        "command": f"{COMMAND} {out_dir}",
        "config": manifest["config"],
        "data_hash": manifest["data_hash"],
        "environment": manifest["environment"],
        "rates": RATES,
        "adamw_rates": ADAMW_RATES,
        "tuning_seeds": TUNING_SEEDS,
        "seeds": SEEDS,
        "settings": {},
    }
    for setting in RANKS:
        if not (out / setting).exists():
            shutil.copytree(measured, out / setting)
        result["settings"][setting] = measure(Run.open(out / setting, write=True), setting)
        with publish(RESULT) as aside:
            aside.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
