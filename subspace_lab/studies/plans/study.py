"""Trainings by plans, by GrassWalk at equal state and by what may explain a difference.

At the root of the repository,

    python -m subspace_lab.studies.plans.study runs/plans

measures a training of a small LLaMA, makes plans of it, trains by each over learning rates and seeds, by GrassWalk of
one rank with no fewer state bytes, and by methods that may explain why one of them is better. Trials that are complete
in ``runs/plans`` are not repeated. The result is ``results/plans/plans.json``, from which the tables of
``docs/how-to/let-measurements-choose.md`` are written; without a directory they are written only.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from subspace_lab.analysis import Plan, energy, recommend
from subspace_lab.experiments.executors.choose import executor_of
from subspace_lab.experiments.grid import Grid, Phase
from subspace_lab.experiments.phases import Evaluate
from subspace_lab.experiments.results import TRAINING
from subspace_lab.experiments.statistics import summary
from subspace_lab.experiments.store import Kind, Store
from subspace_lab.experiments.study import Quantity, Study, conduct
from subspace_lab.experiments.variants import OF_TRAININGS, Trainings, common_config, left_open, parse_methods, rates
from subspace_lab.report.pages import fill_from, markdown_table
from subspace_lab.runs import Run
from subspace_lab.runs.files import publish
from subspace_lab.studies.plans.validate_plan import gap_to, methods_of, uniform_rank
from subspace_lab.training import TrainConfig, train
from subspace_lab.training.memory import trained_shapes

RESULT = Path("results", "plans", "plans.json")
PAGE, MARK = Path("docs", "how-to", "let-measurements-choose.md"), "plans"
COMMAND = "python -m subspace_lab.studies.plans.study"
RATES = (3e-3, 8e-3, 2e-2)
ADAMW_RATES = (3e-4, 1e-3, 3e-3)
TUNING_SEEDS, SEEDS = 3, 5  # at all rates, and at the best of them
INTERVAL = 20
MEASURED = TrainConfig(  # its seed is not among those that are compared
    preset="llama-2m", vocab_size=1024, steps=150, batch_size=8, sequence_length=64, lr=3e-3, seed=9,
    precision="float32", threads=1, every=10, checkpoint_every=50, keep_checkpoints=3, eval_every=150, eval_batches=16,
)  # fmt: skip
RANKS = {"free": None, "tight": (1, 2, 3, 4, 6, 8, 12, 16)}  # by setting: that are measured for the plan; None: default
COLUMNS = ["method", "lr", "edge", "seeds", "failed", "eval_loss", "eval_low", "eval_high", "state_bytes"]
SETTINGS = {
    "free": "no budget, the ranks that `analyze` measures by itself (2, 4, ..., 64)",
    "tight": "three quarters of the bytes that a plan without budget takes, ranks 1, 2, 3, 4, 6, 8, 12, 16",
}
ROWS = {
    "plan": "plan",
    "default": "GrassWalk, one rank, its defaults",
    "usual": f"GrassWalk, one rank, refreshed every {INTERVAL}",
    "less": "GrassWalk, the next lower rank, its defaults",
    "adamw": "AdamW",
}
PLANS = Kind("plans", "study.json", "cells", "a study", factors={**TRAINING, "setting": "str"}, **OF_TRAININGS)


def plan_of(run: Run, setting: str) -> Plan:
    """The plan of a setting (a key of `RANKS`), measured in a captured run."""
    energy(run, ranks=RANKS[setting])
    plan = recommend(run)
    return recommend(run, 3 * plan.state_bytes // 4) if setting == "tight" else plan


def methods(setting: str, plan_path: Path, rank: int) -> dict[str, dict[str, Any]]:
    """What a setting compares: its plan, GrassWalk of a rank with no fewer state bytes, and what may explain a gap."""
    found, walk = methods_of(plan_path, rank), {"optimizer": "grasswalk", "rank": rank}
    if setting == "free":
        found |= {"usual": {**walk, "update_interval": INTERVAL}, "adamw": {"optimizer": "adamw"}}
    elif rank > 1:
        found |= {"less": {**walk, "rank": rank - 1}}
    return found


def phases(setting: str, base: TrainConfig, chosen: Mapping[str, Mapping[str, Any]], data_hash: str) -> list[Phase]:
    """All rates on the first seeds, then all seeds at the best rate of each method."""
    make = Trainings(base, parse_methods(chosen), data_hash, factors={"setting": setting}, prefix=f"{setting} ")
    found: list[Phase] = []
    for is_adamw, lrs in ((False, RATES), (True, ADAMW_RATES)):
        names = [name for name in chosen if (name == "adamw") == is_adamw]
        grid = Grid(names, rates(lrs), range(TUNING_SEEDS), make, "tune")
        found += [grid, Evaluate(grid, dict.fromkeys(grid.variants, range(SEEDS)), make)]
    return found


def numbers(results: pd.DataFrame) -> dict[str, Any]:
    """Of a setting's rows: ``cells``, ``methods`` (at their best rates), ``gaps`` (plan minus method, by seed)."""
    cells, table = results[["method", "lr", "seed", "status", "eval_loss"]], summary(results)
    return {
        "cells": json.loads(cells.to_json(orient="records", double_precision=10)),
        "methods": json.loads(table[COLUMNS].to_json(orient="records", double_precision=10)),
        "gaps": {method: gap_to(results, method) for method in table["method"] if method != "plan"},
    }


def verdict(gap: dict[str, float]) -> str:
    """The verdict on the gap of plan minus another method."""
    if gap["gap_high"] < 0:
        return "the plan is better"
    return "the plan is worse" if gap["gap_low"] > 0 else "not distinguishable"


def render(result: dict[str, Any]) -> str:
    """The tables of the page, from the content of the JSON file."""
    lines = []
    headings = ["method", "state of the planned layers, kB", "best rate", "held-out loss", "plan minus this one", ""]
    for setting, of_setting in result["settings"].items():
        others = _bytes_of_others(of_setting)
        rows = []
        for row in of_setting["methods"]:
            edge = f" ({row['edge']} end)" if row["edge"] else ""
            gap, state = of_setting["gaps"].get(row["method"]), f"{(row['state_bytes'] - others) / 1e3:,.0f}"
            rows.append([ROWS[row["method"]], state, f"{row['lr']:g}{edge}", f"{row['eval_loss']:.3f}", "", ""])
            if gap is not None:
                difference = f"{gap['gap']:+.3f} [{gap['gap_low']:+.3f}, {gap['gap_high']:+.3f}]"
                rows[-1][-2:] = [difference, verdict(gap)]
        title = f"{SETTINGS[setting][0].upper()}{SETTINGS[setting][1:]}:"
        lines += [title, "", *markdown_table(headings, rows), ""]
    return "\n".join(lines)


def _bytes_of_others(of_setting: dict[str, Any]) -> float:
    """The state of embeddings, head and norms, the same for all methods."""
    whole = next(row["state_bytes"] for row in of_setting["methods"] if row["method"] == "plan")
    return float(whole - sum(layer["state_bytes"] for layer in of_setting["plan"]["layers"]))


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
    result: dict[str, Any] = {
        "command": f"{COMMAND} {out_dir}", "config": run.manifest["config"], "data_hash": data_hash,
        "environment": run.manifest["environment"], "rates": RATES, "adamw_rates": ADAMW_RATES,
        "tuning_seeds": TUNING_SEEDS, "seeds": SEEDS, "settings": {},
    }  # fmt: skip
    about, quantities = {}, {}
    for setting in RANKS:
        plan, path = plan_of(run, setting), out / f"{setting}.json"
        plan.save(path)
        rank = uniform_rank(trained_shapes(config), plan)
        about[setting] = {"uniform_rank": rank, "plan": plan.to_dict()}
        chosen = methods(setting, path, rank)
        quantities[setting] = Quantity(setting, tuple(phases(setting, base, chosen, data_hash)))
    store = Store.begin(out / "trials", PLANS, {"config": base.to_dict()})
    conduct(Study(quantities), store, executor_of(store.trials_dir, workers=1), workers=1)
    for setting, facts in about.items():
        result["settings"][setting] = numbers(store.results[store.results["setting"] == setting]) | facts
    with publish(RESULT) as aside:
        aside.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
