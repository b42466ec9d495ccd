"""Tables made by hand, and a store that reads them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from subspace_lab.studies.finetuning.profiles import PROFILES

TASKS = ("sentiment", "arithmetic")


class Tables:
    """What a measure needs of a store: tables by name, and the profile, of both tasks or of the first."""

    def __init__(self, *, tasks: Sequence[str] = TASKS, **tables: pd.DataFrame) -> None:
        self.profile = dataclasses.replace(PROFILES["cpu"], tasks=tuple(tasks))
        self.path, self.trials_dir, self.tables = Path(), Path(), tables

    def read(self, name: str, columns: Mapping[str, str] | None = None) -> pd.DataFrame:
        return self.tables.get(name, pd.DataFrame(columns=[*(columns or ())]))

    def add(self, name: str, rows: pd.DataFrame) -> None:
        self.tables[name] = pd.concat([self.tables[name], rows]) if name in self.tables else rows


def trainings(
    numbers: Mapping[str, Mapping[str, float | Sequence[float]]], *, tasks: Sequence[str] = TASKS
) -> pd.DataFrame:
    """Complete trials of three seeds by method: each column a number for all seeds, or one for each.

    Each method has a second rate, too, at which nothing may be looked at, a tuning at the better one, and a captured
    run.
    """
    rows = []
    for task in tasks:
        for method, columns in numbers.items():
            for seed in range(3):
                values = {
                    name: value[seed] if isinstance(value, Sequence) else value for name, value in columns.items()
                }
                score = values.pop("score", 0.5)
                own: dict[str, Any] = {
                    "eval_loss": 1.0, "wall_s": 100.0, "step_s": 1.0, "refresh_share": 0.1, "state_bytes": 1000.0,
                    "peak_bytes": 5000.0, "base_bytes": 10.0, "train_loss": 1.0, "tokens": 10.0, **values,
                    "eval_accuracy": score if task == "sentiment" else float("nan"),
                    "eval_exact": score if task == "arithmetic" else float("nan"),
                }  # fmt: skip
                about = {"task": task, "source": "", "method": method, "seed": seed, "status": "complete", "lr": 1e-3}
                rows.append({**about, **own, "phase": "evaluate", "cell": f"{task} {method} {seed}"})
            worse = dict.fromkeys(("eval_loss", "wall_s", "state_bytes", "peak_bytes"), 99.0)
            tuned = {**rows[-1], **worse, "phase": "tune", "seed": 1000, "eval_accuracy": 0.9, "eval_exact": 0.9}
            rows += [{**tuned, "lr": 1e-2, "cell": "x"}, {**tuned, "eval_loss": 98.0, "cell": "y"}]
            rows.append({**rows[-1], **worse, "phase": "evaluate", "source": "task", "seed": 0, "cell": "z"})
    return pd.DataFrame(rows)


def captured(value: Any, *, sources: Sequence[str] = ("task", "text", "scratch")) -> dict[str, pd.DataFrame]:
    """Tables of captured runs of three seeds, five blocks, four steps, two kinds of layers, ranks 4 and 16 of 64.

    Args:
        value: Of (source, seed, step, kind, depth, rank or index): ratio and squares of the nulls, and the largest
            value over the squared norm and its null; each singular value after it is half of the one before.
        sources: Which there are.
    """
    energies, tangents = [], []
    for source in sources:
        for seed in range(3):
            for step in (0, 10, 20, 30):
                for kind in ("q_proj", "down_proj"):
                    for depth in range(5):
                        at = {"cell": f"{source}{seed}", "source": source, "seed": seed, "step": step, "kind": kind,
                              "depth": depth}  # fmt: skip
                        for rank in (4, 16):
                            found = value(source, seed, step, kind, depth, rank)
                            nulls = {"null_noise": found.get("noise", 0.25), "null_isotropic": 0.25}
                            energies.append({**at, "rank": rank, "m": 64, "n": 100, "ratio": found["ratio"], **nulls})
                        for index in range(2):
                            size = found.get("largest", 0.1) * found.get("even", 0.5) ** index
                            values = {"normalized": size, "null_noise": found.get("largest_noise", 0.2)}
                            tangents.append({
                                **at,
                                "rank": 16,
                                "lag_steps": 10,
                                "index": index,
                                "singular_value": 1.0,
                                **values,
                            })
    return {"captured_energy": pd.DataFrame(energies), "captured_tangent": pd.DataFrame(tangents)}
