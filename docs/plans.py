"""Plans against the default at equal state, trained: JSON, and the tables of docs/how-to/let-measurements-choose.md.

    python docs/plans.py runs/plans

measures a training of a small LLaMA, makes plans of it, trains by each over learning rates and seeds, by GrassWalk of
one rank with no fewer state bytes, and by what may tell why one of them is better. What is finished in ``runs/plans``
is not trained again. Written are ``docs/results/plans.json`` and the tables of the page.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import subspace_lab as sl
from subspace_lab.studies.optimizers import Comparison
from subspace_lab.studies.optimizers.check import check_plan, gap_to, uniform_rank

DOCS = Path(__file__).parent
RESULT = DOCS / "results" / "plans.json"
PAGE = DOCS / "how-to" / "let-measurements-choose.md"
BEGIN, END = "<!-- plans: begin -->\n", "<!-- plans: end -->\n"

RATES = (3e-3, 8e-3, 2e-2)
ADAMW_RATES = (3e-4, 1e-3, 3e-3)
TUNING_SEEDS, SEEDS = 3, 5  # at all rates, and at the best of them
INTERVAL = 20
MEASURED = sl.TrainConfig(  # a seed that is none of those that the check trains
    preset="llama-2m", vocab_size=1024, steps=150, batch_size=8, sequence_length=64, lr=3e-3, seed=9,
    precision="float32", threads=1, every=10, checkpoint_every=50, keep_checkpoints=3, eval_every=150, eval_batches=16,
)  # fmt: skip
RANKS = {"free": None, "tight": (1, 2, 3, 4, 6, 8, 12, 16)}
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
COLUMNS = ["method", "lr", "edge", "seeds", "failed", "eval_loss", "eval_low", "eval_high", "state_bytes"]


def plan_of(run: sl.Run, setting: str) -> sl.Plan:
    """The plan of a setting.

    Args:
        run: A captured run, open for writing.
        setting: A key of `SETTINGS`.

    Returns:
        The plan.
    """
    sl.analysis.energy(run, ranks=RANKS[setting])
    plan = sl.recommend(run)
    return sl.recommend(run, 3 * plan.state_bytes // 4) if setting == "tight" else plan


def measure(run: sl.Run, setting: str) -> dict[str, Any]:
    """Train what a setting compares.

    Args:
        run: A copy of the captured run of its own, open for writing.
        setting: A key of `SETTINGS`.

    Returns:
        What the JSON file has of a setting.
    """
    plan = plan_of(run, setting)
    rank = uniform_rank(run, plan)
    found = tuned(partial(check_plan, run, plan, workers=1, adamw=False), ("plan", "default"), RATES)
    for name, settings, rates in beside(setting, rank):
        found = tuned(partial(sl.compare, found.path, {name: settings}, workers=1), (name,), rates)
    return summary(found) | {"uniform_rank": rank, "plan": plan.to_dict()}


def beside(setting: str, rank: int) -> list[tuple[str, dict[str, Any], tuple[float, ...]]]:
    """What else is trained in a setting: name, settings and learning rates.

    Args:
        setting: A key of `SETTINGS`.
        rank: Of the default.

    Returns:
        The methods.
    """
    walk = {"optimizer": "grasswalk", "rank": rank}
    if setting == "free":
        return [("usual", {**walk, "update_interval": INTERVAL}, RATES), ("adamw", {}, ADAMW_RATES)]
    return [("less", {**walk, "rank": rank - 1}, RATES)]


def tuned(train: Callable[..., Comparison], methods: tuple[str, ...], rates: tuple[float, ...]) -> Comparison:
    """Train at all rates on the first seeds, and on all seeds at the best rate of each method.

    Args:
        train: Takes ``lrs`` and ``seeds``.
        methods: Those that it trains.
        rates: Learning rates.

    Returns:
        The comparison.
    """
    table = train(lrs=rates, seeds=TUNING_SEEDS).table
    best = table[table["method"].isin(methods)]["lr"]
    return train(lrs=sorted(set(best)), seeds=SEEDS)


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


def verdict(gap: dict[str, float]) -> str:
    """What an interval says.

    Args:
        gap: Of plan minus another method.

    Returns:
        A few words.
    """
    if gap["gap_high"] < 0:
        return "the plan is better"
    return "the plan is worse" if gap["gap_low"] > 0 else "not told apart"


def render(result: dict[str, Any]) -> str:
    """The tables of the page.

    Args:
        result: The content of the JSON file.

    Returns:
        Markdown.
    """
    lines = []
    for setting, of_setting in result["settings"].items():
        others = _bytes_of_others(of_setting)
        lines += [
            f"{SETTINGS[setting][0].upper()}{SETTINGS[setting][1:]}:",
            "",
            "| method | state of the planned layers, kB | best rate | held-out loss | plan minus this one | |",
            "|---|---|---|---|---|---|",
        ]
        for row in of_setting["methods"]:
            edge = f" ({row['edge']} end)" if row["edge"] else ""
            gap, state = of_setting["gaps"].get(row["method"]), (row["state_bytes"] - others) / 1e3
            told = "" if gap is None else f"{gap['gap']:+.3f} [{gap['gap_low']:+.3f}, {gap['gap_high']:+.3f}]"
            lines.append(
                f"| {ROWS[row['method']]} | {state:,.0f} | {row['lr']:g}{edge} | {row['eval_loss']:.3f} | "
                f"{told} | {'' if gap is None else verdict(gap)} |"
            )
        lines.append("")
    return "\n".join(lines)


def _bytes_of_others(of_setting: dict[str, Any]) -> float:
    """The state of embeddings, head and norms, the same for all methods."""
    whole: float = next(row["state_bytes"] for row in of_setting["methods"] if row["method"] == "plan")
    return whole - sum(layer["state_bytes"] for layer in of_setting["plan"]["layers"])


def fill(page: str, tables: str) -> str:
    """A page with the tables between its marks.

    Args:
        page: The page.
        tables: From `render`.

    Returns:
        The page.
    """
    before, _, rest = page.partition(BEGIN)
    return before + BEGIN + tables + END + rest.partition(END)[2]


def main(out_dir: str) -> None:
    """Train what is not trained yet, write the JSON file, fill the page.

    Args:
        out_dir: Where the runs are.
    """
    out = Path(out_dir)
    measured = out / "measured"
    if not measured.exists():
        sl.train(measured, MEASURED)
    manifest = sl.Run.open(measured).manifest
    result = {
        "command": f"python docs/plans.py {out_dir}",
        "config": manifest["config"],
        "data_hash": manifest["data_hash"],
        "environment": manifest["environment"],
        "rates": RATES,
        "adamw_rates": ADAMW_RATES,
        "tuning_seeds": TUNING_SEEDS,
        "seeds": SEEDS,
        "settings": {},
    }
    for setting in SETTINGS:
        if not (out / setting).exists():
            shutil.copytree(measured, out / setting)
        result["settings"][setting] = measure(sl.Run.open(out / setting, write=True), setting)
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), render(result)), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
