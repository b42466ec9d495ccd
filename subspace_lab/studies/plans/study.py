"""Trainings by a plan, by GrassWalk at equal state, by what may explain a difference, and by other allocations.

At the root of the repository,

    python -m subspace_lab.studies.plans.study runs/plans

measures a training of a small LLaMA, makes a plan of it, and trains: the plan, GrassWalk of one rank with no fewer
state bytes, and AdamW, each tuned by the tuned protocol's search over the rates of the matrices and of the rest; then
the default with one thing of the plan at a time, and ranks by other rules at equal bytes, each tuned over the rate of
the matrices. Trials that are complete in ``runs/plans`` are not repeated. The result is ``results/plans/plans.json``,
from which the tables of ``docs/how-to/let-measurements-choose.md`` are written; without a directory they are written
only.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from subspace_lab.analysis import energy, recommend
from subspace_lab.experiments.executors.choose import executor_of
from subspace_lab.experiments.grid import Grid
from subspace_lab.experiments.protocol import TUNING_SEEDS, tuned_phases
from subspace_lab.experiments.results import TRAINING
from subspace_lab.experiments.statistics import best_rows, best_setting, latest, paired, summary
from subspace_lab.experiments.store import Kind, Store
from subspace_lab.experiments.study import Quantity, Study, conduct
from subspace_lab.experiments.variants import OF_TRAININGS, Trainings, common_config, left_open, parse_methods
from subspace_lab.report.pages import fill_from, markdown_table
from subspace_lab.runs import Run
from subspace_lab.runs.files import publish
from subspace_lab.studies.plans.validate_plan import methods_of, uniform_rank
from subspace_lab.studies.plans.variants import (
    allocated,
    by_energy,
    by_probes,
    by_split_batches,
    one_thing,
    oriented_shapes,
    probe_plans,
    save,
)
from subspace_lab.training import TrainConfig, train
from subspace_lab.training.memory import trained_shapes

RESULT = Path("results", "plans", "plans.json")
PAGE, MARK = Path("docs", "how-to", "let-measurements-choose.md"), "plans"
COMMAND = "python -m subspace_lab.studies.plans.study"
MEASURED = TrainConfig(  # its seed is not among those that are compared
    preset="llama-2m", vocab_size=1024, steps=150, batch_size=8, sequence_length=64, lr=3e-3, seed=9,
    precision="float32", threads=1, every=10, checkpoint_every=50, keep_checkpoints=3, eval_every=150, eval_batches=16,
)  # fmt: skip
RANKS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
SPLIT_RANKS = (2, 4, 8, 16, 32)
SEEDS = 5
PROBE_STEPS, PROBE_SEEDS = 50, (1000,)
COLUMNS = [
    "method", "lr", "lr_rest", "edge", "seeds", "failed", "eval_loss", "eval_low", "eval_high", "state_bytes",
]  # fmt: skip
TUNED = "the plan and what it is held against, tuned"
ABLATION, ALLOCATION = "one thing at a time", "ranks at equal bytes, everything else as in GrassWalk's default"
ROWS = {
    "plan": (TUNED, "plan"),
    "default": (TUNED, "GrassWalk, one rank, its defaults"),
    "adamw": (TUNED, "AdamW"),
    "ranks of the plan": (ABLATION, "GrassWalk's default with the ranks of the plan"),
    "refresh of the plan": (ABLATION, "... with rule, interval and walk step of the plan"),
    "recovery of the plan": (ABLATION, "... with the recovery of the plan"),
    "plan, all recovered": (ABLATION, "the plan with recovery in all layers"),
    "by energy": (ALLOCATION, "by own energy"),
    "by split batches": (ALLOCATION, "by the signal in bases of the other half of a batch"),
    "by probes": (ALLOCATION, f"by the loss of {PROBE_STEPS} steps with half and twice the rank of a kind of layer"),
}
PLANS = Kind("plans", "study.json", "cells", "a study", factors=TRAINING, **OF_TRAININGS)


@dataclasses.dataclass(frozen=True)
class Lab:
    """What all parts of the study share.

    Attributes:
        base: Configuration of all trainings.
        data_hash: Of their data.
        store: Their results.
    """

    base: TrainConfig
    data_hash: str
    store: Store

    def run(self, name: str, methods: Mapping[str, Mapping[str, Any]], **said: Any) -> None:
        """Tune some methods over the settings that are not said, and evaluate them."""
        assert self.base.warmup is not None
        fixed = {"betas": (0.9, 0.999), "warmup": self.base.warmup, **said}
        chosen = parse_methods({method: {**settings, **fixed} for method, settings in methods.items()})
        phases = tuned_phases(chosen, Trainings(self.base, chosen, self.data_hash), seeds=SEEDS)
        self._conduct(Quantity(name, phases))

    def losses(self, methods: Mapping[str, Mapping[str, Any]], setting: Mapping[str, float]) -> dict[str, float]:
        """Mean held-out loss of short trainings with a setting, on tuning seeds."""
        assert self.base.warmup is not None
        warmup = max(1, self.base.warmup * PROBE_STEPS // (self.base.steps or PROBE_STEPS))
        base = dataclasses.replace(self.base, steps=PROBE_STEPS, eval_every=PROBE_STEPS, warmup=warmup)
        chosen = parse_methods(methods)
        grid = Grid(
            [*chosen], [setting], PROBE_SEEDS, Trainings(base, chosen, self.data_hash, prefix="probe "), "probe"
        )
        self._conduct(Quantity("probes", (grid,)))
        rows = self.store.results[self.store.results["method"].isin(list(chosen))]
        return {str(name): float(loss) for name, loss in rows.groupby("method")["eval_loss"].mean().items()}

    def best(self, method: str) -> dict[str, float]:
        """Rates of a tuned method."""
        rows = self.store.results[self.store.results["method"] == method]
        return {name: float(value) for name, value in best_setting(rows, names=("lr", "lr_rest")).items()}

    def _conduct(self, quantity: Quantity) -> None:
        conduct(Study({quantity.title: quantity}), self.store, executor_of(self.store.trials_dir, workers=1), workers=1)


def numbers(results: pd.DataFrame) -> dict[str, Any]:
    """What the JSON file has of the methods whose evaluation is complete.

    Args:
        results: A result table.

    Returns:
        ``cells``, ``methods`` (at their best rates), ``gaps`` (each minus the default) and ``plan_minus_adamw``.
    """
    evaluated = results[(results["phase"] == "evaluate") & (results["status"] == "complete")].groupby("method").size()
    done = [name for name in ROWS if evaluated.get(name, 0) == SEEDS]
    results = results[results["method"].isin(done)]
    cells, table = (
        latest(results)[["method", "phase", "lr", "lr_rest", "seed", "status", "eval_loss"]],
        summary(results),
    )
    rows = best_rows(results).set_index("seed")

    def gap(one: str, other: str) -> dict[str, float]:
        mine, others = (rows.loc[rows["method"] == name, "eval_loss"] for name in (one, other))
        return paired(mine, others)

    gaps = {method: gap(method, "default") for method in table["method"] if method != "default"}
    return {
        "cells": json.loads(cells.to_json(orient="records", double_precision=10)),
        "methods": json.loads(table[COLUMNS].to_json(orient="records", double_precision=10)),
        "gaps": gaps, "plan_minus_adamw": gap("plan", "adamw"),
    }  # fmt: skip


def verdict(gap: Mapping[str, float]) -> str:
    """The verdict on the gap of a method minus the default."""
    if gap["gap_high"] < 0:
        return "better"
    return "worse" if gap["gap_low"] > 0 else "not distinguishable"


def render(result: Mapping[str, Any]) -> str:
    """The tables of the page, from the content of the JSON file."""
    headings = ["trained", "state of the planned layers, kB", "best rates", "held-out loss", "minus the default", ""]
    others = _bytes_of_others(result)
    found = {row["method"]: row for row in result["methods"]}
    lines = []
    for part in (TUNED, ABLATION, ALLOCATION):
        rows = []
        for method, (of_part, words) in ROWS.items():
            if of_part != part or method not in found:
                continue
            row, gap = found[method], result["gaps"].get(method)
            state, edge = f"{(row['state_bytes'] - others) / 1e3:,.0f}", f" ({row['edge']} end)" if row["edge"] else ""
            cells = [words, state, f"{row['lr']:g}, {row['lr_rest']:g}{edge}", f"{row['eval_loss']:.3f}", "", ""]
            if gap is not None:
                cells[-2:] = [f"{gap['gap']:+.3f} [{gap['gap_low']:+.3f}, {gap['gap_high']:+.3f}]", verdict(gap)]
            rows.append(cells)
        lines += [f"{part[0].upper()}{part[1:]}:", "", *markdown_table(headings, rows), ""] if rows else []
    return "\n".join(lines)


def _bytes_of_others(result: Mapping[str, Any]) -> float:
    """The state of embeddings, head and norms, the same for all methods."""
    whole = next(row["state_bytes"] for row in result["methods"] if row["method"] == "plan")
    return float(whole - sum(layer["state_bytes"] for layer in result["plan"]["layers"]))


def main(out_dir: str = "") -> None:
    """Train what is missing in a directory, write the JSON file, fill the page; without a directory only fill it."""
    if out_dir:
        _write(out_dir)
    fill_from(RESULT, PAGE, MARK, render)


def _write(out_dir: str) -> None:
    out = Path(out_dir)
    if not (out / "measured").exists():
        train(out / "measured", MEASURED)
    run = Run.open(out / "measured", write=True)
    config, data_hash = TrainConfig.from_dict(run.manifest["config"]), run.manifest["data_hash"]
    base = common_config(left_open(config))
    lab = Lab(base, data_hash, Store.begin(out / "trials", PLANS, {"config": base.to_dict()}))
    table = energy(run, ranks=RANKS)
    shapes, plan = oriented_shapes(table), recommend(run)
    plan.save(out / "plan.json")
    rank = uniform_rank(trained_shapes(config), plan)
    about: dict[str, Any] = {
        "command": f"{COMMAND} {out_dir}", "config": run.manifest["config"], "data_hash": data_hash,
        "environment": run.manifest["environment"], "tuning_seeds": TUNING_SEEDS, "seeds": SEEDS,
        "uniform_rank": rank, "plan": plan.to_dict(),
    }  # fmt: skip
    lab.run(TUNED, methods_of(out / "plan.json", rank) | {"adamw": {"optimizer": "adamw"}})
    _publish(about, lab)
    best = lab.best("default")
    said = {"lr_rest": best["lr_rest"]}
    lab.run(ABLATION, save(one_thing(plan, rank, shapes), out), **said)
    _publish(about, lab)
    kinds = {row["name"]: row["kind"] for row in run.manifest["layers"]}
    losses = lab.losses(save(probe_plans(plan, rank, shapes, kinds), out), best)
    ways = {
        "by energy": by_energy(table, shapes), "by split batches": by_split_batches(run, SPLIT_RANKS, shapes),
        "by probes": by_probes(losses, rank, shapes, kinds),
    }  # fmt: skip
    plans = {name: allocated(plan, choices, rank, shapes) for name, choices in ways.items()}
    ranks = {name: {layer.layer: layer.rank for layer in each.layers} for name, each in plans.items()}
    lab.run(ALLOCATION, save(plans, out), **said)
    _publish({**about, "probes": losses, "ranks": ranks}, lab)


def _publish(about: Mapping[str, Any], lab: Lab) -> None:
    """Write the JSON file with the results so far, whole or not at all."""
    with publish(RESULT) as aside:
        aside.write_text(json.dumps({**about, **numbers(lab.store.results)}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
