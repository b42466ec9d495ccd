"""Published claims about energy and curvature, measured on analysed runs: JSON, and the tables of papers.md.

At the root of the repository,

    python -m subspace_lab.studies.grass_paper.analyzed_runs runs/claims-0 runs/claims-1 runs/claims-2

writes ``results/grass_paper/analyzed_runs.json`` and the tables of ``docs/papers.md``; without run directories it
writes the tables only. Each number is computed per run; the tables show mean and standard deviation over the runs
(other seeds).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from subspace_lab.analysis.trends import change_over_depth, change_over_training, evenness, thirds
from subspace_lab.report.pages import fill_from, markdown_table
from subspace_lab.runs import Run
from subspace_lab.runs.files import publish

RESULT = Path("results", "grass_paper", "analyzed_runs.json")
PAGE, MARK = Path("docs", "papers.md"), "analyzed runs"
_ENERGY = ("r/m", "ratio", "own space of noise", "fixed basis", "layers above noise", "change over training",
           "layers that fall", "change over depth", "kinds that fall")  # fmt: skip
_CURVATURE = ("kind", "largest value", "of noise", "evenness early", "evenness late", "evenness of noise")
COMMAND = "python -m subspace_lab.studies.grass_paper.analyzed_runs"


def measure(run: Run) -> dict[str, Any]:
    """All numbers of one analysed run: ``energy`` by rank and ``curvature`` by kind of layer."""
    energy, curvature = run.table("energy"), run.table("curvature")
    own = energy[energy["basis"] == "own"].dropna(subset=["ratio"])
    return {
        "energy": {str(rank): _energy(rows) for rank, rows in own.groupby("rank")},
        "curvature": {str(kind): _curvature(rows) for kind, rows in curvature.groupby("kind", observed=True)},
    }


def _energy(own: pd.DataFrame) -> dict[str, float]:
    layers = own.groupby("layer", observed=True)[["fraction", "null_noise"]].mean()
    training, depth = change_over_training(own), change_over_depth(own)
    return {
        "share": float((own["rank"] / own["m"]).mean()),
        "ratio": float(own["ratio"].mean()),
        "noise": float(np.sqrt(own["null_noise"]).mean()),
        "fixed": float(np.sqrt(own["null_isotropic"]).mean()),
        "above": float((layers["fraction"] > layers["null_noise"]).mean()),
        "training": float(training.mean()),
        "falling": float((training < 0).mean()),
        "depth": float(depth.mean()),
        "deeper_smaller": float((depth < 0).mean()),
    }


def _curvature(rows: pd.DataFrame) -> dict[str, float]:
    early, _, late = (rows[rows["step"].isin(part)] for part in thirds(rows["step"]))
    largest = rows[rows["index"] == 0]
    return {
        "largest": float(largest["normalized"].mean()),
        "noise": float(largest["null_noise"].mean()),
        "evenness_early": float(evenness(early).mean()),
        "evenness_late": float(evenness(late).mean()),
        "evenness_noise": float(evenness(rows, "null_noise").mean()),
        "lag_steps": float(rows["lag_steps"].mean()),
    }


def summarize(measured: list[dict[str, Any]]) -> dict[str, Any]:
    """``[mean, standard deviation]`` over runs in the place of each number that `measure` returns."""
    first = measured[0]
    if isinstance(first, dict):
        return {key: summarize([one[key] for one in measured]) for key in first}
    return [float(np.mean(measured)), float(np.std(measured, ddof=1)) if len(measured) > 1 else 0.0]


def render(result: dict[str, Any]) -> str:
    """The tables of papers.md, from the content of the JSON file."""
    energy = [
        (
            f"1/{1 / row['share'][0]:.0f}", _pm(row["ratio"], 4), f"{row['noise'][0]:.3f}", f"{row['fixed'][0]:.3f}",
            f"{row['above'][0]:.0%}", _pm(row["training"], 4, "+"), f"{row['falling'][0]:.0%}",
            _pm(row["depth"], 4, "+"), f"{row['deeper_smaller'][0]:.0%}",
        )
        for row in result["numbers"]["energy"].values()
    ]  # fmt: skip
    curvature = [
        (
            kind, _pm(row["largest"], 3), f"{row['noise'][0]:.3f}", _pm(row["evenness_early"], 4),
            _pm(row["evenness_late"], 4), f"{row['evenness_noise'][0]:.2f}",
        )
        for kind, row in result["numbers"]["curvature"].items()
    ]  # fmt: skip
    lines = [
        "W1, W2, W3, by rank (ratios, unsquared):", "", *markdown_table(_ENERGY, energy), "",
        "W4, by kind of layer (normalized by the gradient's squared norm; evenness: the 20th value over the first):",
        "", *markdown_table(_CURVATURE, curvature),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _pm(value: list[float], digits: int, sign: str = "") -> str:
    return f"{value[0]:{sign}.{digits}f} ± {value[1]:.{digits}f}"


def main(run_dirs: list[str]) -> None:
    """Measure the runs (seeds of one configuration), write the JSON file, fill the page; without runs only fill it."""
    runs = [Run.open(path) for path in run_dirs]
    if runs:
        result = {
            "command": " ".join([COMMAND, *run_dirs]),
            "runs": [{**{k: run.manifest[k] for k in ("config", "data_hash")}, "steps": run.steps} for run in runs],
            "environment": runs[0].manifest["environment"],
            "numbers": summarize([measure(run) for run in runs]),
        }
        with publish(RESULT) as aside:
            aside.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    fill_from(RESULT, PAGE, MARK, render)


if __name__ == "__main__":
    main(sys.argv[1:])
