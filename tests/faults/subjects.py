"""Directories of every kind as the package writes them, and everything that opens one."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import subspace_lab as sl
from subspace_lab.analysis import Plan
from subspace_lab.experiments.grid import Grid
from subspace_lab.experiments.outcome import Outcome, write_outcome
from subspace_lab.experiments.store import Store
from subspace_lab.experiments.variants import Trainings, common_config, parse_methods, rates
from subspace_lab.studies.grass_paper.out_dir import PAPER, open_store
from subspace_lab.studies.grass_paper.profiles import PROFILES
from subspace_lab.studies.optimizers.comparison import COMPARISON, Comparison
from subspace_lab.training import TrainConfig
from subspace_lab.training.cache import cached_array, cached_text
from subspace_lab.training.start import stored_config
from tests.runs_by_hand import noise, write_run

LAYERS = {"blocks.0.w.weight": (6, 9), "blocks.1.w.weight": (6, 9)}
COMMITTED = Path(__file__).parents[2] / "results" / "grass_paper"
Opener = Callable[[Path], Any]


@dataclasses.dataclass(frozen=True)
class Subject:
    """A kind of directory.

    Attributes:
        write: Makes a sound one at a path that does not exist.
        openers: What reads it, by name; each returns something that can be compared.
        exact: Names of openers whose answer a fault may not change without a word.
    """

    write: Callable[[Path], object]
    openers: dict[str, Opener]
    exact: frozenset[str] = frozenset()


def _run(path: Path) -> None:
    run = write_run(path, noise(LAYERS), steps=3, keep="full")
    sl.analysis.energy(run)
    sl.analysis.angles(run)
    sl.recommend(run).save(path / "plan.json")


def _measured(path: Path) -> str:
    return sl.analysis.energy(sl.Run.open(path)).to_json()


def _gradients(path: Path) -> str:
    run = sl.Run.open(path)
    return str([run.gradient(step, layer).sum().item() for step in (0, 10, 20) for layer in LAYERS])


def _from_plan(path: Path) -> str:
    model = torch.nn.ModuleDict({
        "blocks": torch.nn.ModuleList(torch.nn.ModuleDict({"w": torch.nn.Linear(9, 6)}) for _ in LAYERS)
    })
    return repr(sl.optim.from_plan(model, path / "plan.json", lr=1e-3))


BASE = common_config(TrainConfig(preset="llama-2m", steps=4, eval_every=2, data=__file__))
METHODS = parse_methods(["grasswalk", "adamw"])


def _comparison(path: Path) -> None:
    trials = Grid([*METHODS], rates([1e-3]), range(2), Trainings(BASE, METHODS, "data")).trials()
    store = Store.begin(path, COMPARISON, {"config": BASE.to_dict(), "methods": METHODS})
    store.data_hash(lambda: "data")
    for trial in trials:
        run = write_run(path / "cells" / trial.name, noise({"a.w": (3, 4)}), steps=1)
        rows = [
            {"step": n, "loss": 5.0 - n, "eval_loss": 5.0 - n, "tokens": 64, "seconds": 0.1, "refresh_seconds": 0.01}
            for n in range(4)
        ]
        (run.path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        kept = {"state_bytes": 1000, "peak_bytes": 2000, "base_bytes": 500}
        write_outcome(path / "cells", trial.name, Outcome("complete", attempts=1, **kept))
    store.enroll(trials)
    store.refresh()


def _continued(path: Path) -> str:
    """What a comparison does that goes on, up to its first training: nothing here has to be trained."""
    trials = Grid([*METHODS], rates([1e-3]), range(2), Trainings(BASE, METHODS, "data")).trials()
    store = Store.begin(path, COMPARISON, {"config": BASE.to_dict(), "methods": METHODS})
    with store.writing():
        store.refresh()
        store.enroll(trials)
        store.refresh()
        return repr(Comparison(store))


def _evidence(path: Path) -> None:
    store = open_store(path, PROFILES["smoke"])
    for name in ("results", "curves"):
        store.add(name, pd.read_parquet(COMMITTED / f"{name}.parquet").head(4))


def _read_evidence(path: Path) -> str:
    store = Store.open(path, PAPER)
    return str(store.settings) + "".join(store.read(name).to_json() for name in ("results", "curves"))


@contextmanager
def _cache_at(path: Path) -> Any:
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(path)
    try:
        yield
    finally:
        os.environ.pop("XDG_CACHE_HOME")
        if before is not None:
            os.environ["XDG_CACHE_HOME"] = before


def _cached(path: Path) -> str:
    with _cache_at(path):
        text = cached_text("tokenizer.json", lambda: json.dumps({"a": [*range(100)]}))
        return text + str(cached_array("tokens.npy", lambda: np.arange(1000)).sum())


SUBJECTS: dict[str, Subject] = {
    "run": Subject(
        _run,
        {
            "open": lambda path: repr(sl.Run.open(path)),
            "verify": lambda path: sl.Run.open(path).verify(),
            "layers": lambda path: sl.Run.open(path).layers.to_json(),
            "metrics": lambda path: sl.Run.open(path).metrics.to_json(),
            "tables": lambda path: [sl.Run.open(path).table(name).to_json() for name in ("energy", "angles")],
            "gradients": _gradients,
            "energy": _measured,
            "recommend": lambda path: sl.recommend(sl.Run.open(path)).to_dict(),
            "stored_config": lambda path: stored_config(path) if "config" in sl.Run.open(path).manifest else None,
            "Plan.load": lambda path: Plan.load(path / "plan.json"),
            "from_plan": _from_plan,
        },
        frozenset({"gradients", "energy"}),
    ),
    "comparison": Subject(
        _comparison,
        {
            "open": lambda path: repr(sl.Comparison.open(path)),
            "tables": lambda path: sl.Comparison.open(path).table.to_json(),
            "continue": _continued,
        },
    ),
    "evidence": Subject(_evidence, {"read": _read_evidence}),
    "cache": Subject(_cached, {"read": _cached}, frozenset({"read"})),
}
SLOW: dict[str, dict[str, Opener]] = {
    "run": {"draw": lambda path: len(sl.figures.draw_all(sl.Run.open(path, write=True))),
            "report": lambda path: sl.report.write_report(sl.Run.open(path, write=True)).name},
    "comparison": {"draw": lambda path: sl.Comparison.open(path).draw().name},
}  # fmt: skip
