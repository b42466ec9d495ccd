"""A whole study in one file: does momentum help on an ill-conditioned quadratic? Each part of a study, at its smallest.

Factors: method, learning rate, seed. A recipe of its own does a trial. What comes out is a table, a picture, a claim
and a page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from subspace_lab.experiments.claims import Claim, Statement, statement, together
from subspace_lab.experiments.executors.base import Executor
from subspace_lab.experiments.grid import Grid, Setting
from subspace_lab.experiments.phases import Evaluate
from subspace_lab.experiments.recipe import Measured, content_of
from subspace_lab.experiments.statistics import best_rows
from subspace_lab.experiments.store import RESULTS, Kind, Store
from subspace_lab.experiments.study import Quantity, Study, conduct
from subspace_lab.experiments.trial import Trial
from subspace_lab.figures.panels import grid
from subspace_lab.figures.style import Layout, picture
from subspace_lab.report.pages import fill_file
from subspace_lab.training.tasks.base import Metric

RECIPE = f"{__name__}:descend"
METRIC = Metric("eval_digits", better="higher", unit="digits")
FACTORS = {"method": "str", "lr": "float64", "phase": "str", "seed": "int64"}
KIND = Kind("dummy", "dummy.json", "trials", "a dummy study", METRIC, FACTORS)
MOMENTUM = {"descent": 0.0, "heavy ball": 0.9}
RATES, TUNING_SEEDS, SEEDS = (0.01, 0.1), range(1), range(3)
PAGE = "# Momentum\n\n<!-- claims: begin -->\n<!-- claims: end -->\n"


class Descend:
    """The recipe: so many steps on ``sum(c x^2) / 2`` from a random start; the digits by which the loss has fallen."""

    def identity(self, config: Mapping[str, Any], *, data_hash: str | None = None) -> Mapping[str, Any]:
        """Everything in it decides the outcome."""
        return {**config, "data_hash": data_hash}

    def shares(self, _: Mapping[str, Any]) -> bool:
        """Each of several processes descends."""
        return True

    def run(
        self, directory: Path, config: Mapping[str, Any], parents: Sequence[Path], *, resume: bool, keeps_weights: bool
    ) -> Measured:
        """Descend."""
        curvature, velocity = np.array([0.1, 10.0]), np.zeros(2)
        x = start = np.random.default_rng(config["seed"]).normal(size=2)
        for _ in range(config["steps"]):
            velocity = config["momentum"] * velocity - config["lr"] * curvature * x
            x = x + velocity
        losses = [float(curvature @ point**2) for point in (start, x)]
        return Measured({METRIC.name: float(np.log10(losses[0] / losses[1]))}, state_bytes=velocity.nbytes)


descend = Descend()


def make(method: str, setting: Setting, seed: int, phase: str) -> Trial:
    """The trial of a method with a learning rate and a seed."""
    config = {"momentum": MOMENTUM[method], **setting, "steps": 100, "seed": seed}
    factors = {"method": method, **setting, "phase": phase, "seed": seed}
    return Trial(factors, RECIPE, config, content_of(RECIPE, config, plugins=[__name__]))


def digits(store: Store) -> pd.DataFrame:
    """Digits of each seed at the best rate of its method."""
    rows = best_rows(store.read(RESULTS), metric=METRIC)
    return rows[["method", "lr", "seed", METRIC.name]] if len(rows) else pd.DataFrame()


@picture("Digits", "Digits by which the loss falls, a point per seed, at the best rate of each method. More is better.")
def drawn(table: pd.DataFrame, layout: Layout) -> Figure:
    """Draw the seeds of each method."""
    figure, axes = grid(layout, ["all"], xlabel="method", ylabel=METRIC.unit, height=2.2)
    axes["all"].plot(table["method"], table[METRIC.name], "o")
    return figure


def stated(store: Store) -> list[Statement]:
    """That momentum gains digits: a number that is negative where it does."""
    of = {str(name): rows.set_index("seed")[METRIC.name] for name, rows in digits(store).groupby("method")}
    return [statement("descent minus heavy ball", of["descent"] - of["heavy ball"], unit=METRIC.unit)]


CLAIM = Claim("Momentum", "Heavy ball gains more digits than descent in as many steps.", ("digits",), stated)


def write_page(store: Store) -> None:
    """The claim with its verdict, between the marks of the page."""
    found = CLAIM.statements(store) if store.has("digits") else []
    lines = [f"{one.text}: {one.mean:+.2f} {one.unit}, *{one.verdict}*\n" for one in found]
    (page := store.path / "page.md").write_text(PAGE)
    fill_file(page, "claims", f"{CLAIM.text} *{together(found)}*\n\n" + "".join(lines))


def run(path: Path, executor: Executor) -> Store:
    """Conduct the study, or go on with it."""
    tuning = Grid([*MOMENTUM], [{"lr": lr} for lr in RATES], TUNING_SEEDS, make, "tune", METRIC)
    phases = (tuning, Evaluate(tuning, dict.fromkeys(MOMENTUM, SEEDS), make))
    columns = {"method": "str", "lr": "float64", "seed": "int64", METRIC.name: "float64"}
    quantity = Quantity("digits", phases, digits, columns, {"digits": drawn})
    store = Store.begin(path, KIND, {"momentum": MOMENTUM, "rates": RATES})
    conduct(Study({"digits": quantity}, finish=write_page, plugins=[__name__]), store, executor)
    return store
