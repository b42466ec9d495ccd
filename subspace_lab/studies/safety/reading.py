"""The tables of a study as figures, claims, report and page look at them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from subspace_lab.studies.safety.stages import NONE
from subspace_lab.studies.safety.summary import GUARD

CELL = ["policy", "task", "threat", "regime", "defense"]  # what the headline has one row of, for each judge
CLEAN = "clean"
_TUNED = ("tuned", "repaired")


@dataclass(frozen=True, eq=False)
class Tables:
    """The tables of a study.

    Attributes:
        results: One row per evaluated model and judge, and one per pair that is not supported.
        steps: Conflict at the probed steps of every tuning.
        subspaces: Overlaps of updates, and of gradients, matrix by matrix.
        terms: What Booster's and Panacea's terms are to first order.
        summary: The headline: the attacker's worst case of every defense.
    """

    results: pd.DataFrame
    steps: pd.DataFrame
    subspaces: pd.DataFrame
    terms: pd.DataFrame
    summary: pd.DataFrame

    @cached_property
    def judge(self) -> str:
        """The judge that is shown: ``exact``, else the first that can tell success, else the first; may be empty."""
        if self.results.empty:
            return ""
        able = list(dict.fromkeys(self.results.loc[self.results["asr"].notna(), "judge"]))
        judged = self.results.loc[self.results["status"] == "complete", "judge"]
        return "exact" if "exact" in able else next(iter([*able, *judged]), "")

    @cached_property
    def tuned(self) -> pd.DataFrame:
        """The complete rows of tuned and repaired models by that judge."""
        rows = self.results
        if rows.empty:
            return rows
        kept = rows["stage"].isin(_TUNED) & (rows["judge"] == self.judge) & (rows["status"] == "complete")
        return rows[kept]

    @cached_property
    def headline(self) -> pd.DataFrame:
        """The rows of the summary by that judge."""
        return self.summary[self.summary["judge"] == self.judge] if len(self.summary) else self.summary

    @cached_property
    def at_choice(self) -> pd.DataFrame:
        """The rows of `tuned` at the learning rate of the headline, of cells in which a rate keeps the task."""
        if self.tuned.empty or self.headline.empty:
            return self.tuned.iloc[:0]
        chosen = self.headline.loc[self.headline["guarded"].astype(bool), [*CELL, "lr"]]
        return self.tuned.merge(chosen, on=[*CELL, "lr"])

    @cached_property
    def regimes(self) -> list[str]:
        """Optimizers, in the order of the study."""
        return _in_order(self.headline, "regime")

    @cached_property
    def threats(self) -> list[str]:
        """Threats, by their share of rows, those of one share in the order of the study."""
        return sorted(_in_order(self.headline, "threat"), key=lambda name: self._shares[name])

    @cached_property
    def _shares(self) -> dict[str, float]:
        """Share of rows by threat."""
        if self.headline.empty:
            return {}
        return {str(name): float(share) for name, share in self.headline.groupby("threat")["share"].max().items()}

    @cached_property
    def defenses(self) -> list[str]:
        """Defenses, in the order of the study, none first."""
        names = _in_order(self.headline, "defense")
        return sorted(names, key=lambda name: name != NONE)

    @property
    def attack(self) -> str | None:
        """The threat by which defenses are compared: the largest share of poison that leaves a task; None without any.

        Of poison alone no task is learned, so that it is taken only where there is nothing else.
        """
        poisoned = [name for name in self.threats if name != CLEAN]
        mixed = [name for name in poisoned if self._shares[name] < 1]
        return (mixed or poisoned)[-1] if poisoned else None

    def by_seed(self, column: str, **cell: str) -> pd.Series[float]:
        """A column of a cell at the learning rate of the headline, by seed; draws of a seed are averaged.

        Args:
            column: Of `results`.
            **cell: Values of `CELL`, each of those that the study has several of.

        Returns:
            Values by seed, empty where nothing is measured.
        """
        return _by_seed(self.at_choice, column, cell)

    def probes(self, column: str, **cell: str) -> pd.Series[float]:
        """A column of `step_shares` of a cell at the learning rate of the headline, by seed."""
        return _by_seed(self.step_shares, column, cell)

    @cached_property
    def step_shares(self) -> pd.DataFrame:
        """The tunings at the headline's learning rate, with the shares of probed steps that conflict.

        Returns:
            The rows of `at_choice` with before, after and applied (shares of steps whose cosine with the safety
            gradient is negative by more than rounding), energy and null_energy (means).
        """
        from subspace_lab.studies.safety.referee.conflict import ROUNDING

        if self.steps.empty or self.at_choice.empty:
            return self.at_choice.iloc[:0].assign(before=[], after=[], applied=[], energy=[], null_energy=[])
        columns = {"cos_user_safety": "before", "cos_after": "after", "cos_applied": "applied"}
        cosines = self.steps[[*columns]].rename(columns=columns)
        shares = (cosines < -ROUNDING).astype("float64").where(cosines.notna())
        shares = pd.concat([self.steps[["cell", "energy", "null_energy"]], shares], axis=1).groupby("cell").mean()
        return self.at_choice.merge(shares, left_on="cell", right_index=True)

    @cached_property
    def updates(self) -> pd.DataFrame:
        """The overlaps of updates of the most poisoned tunings, with their setting and the excess over the null."""
        rows = self._spaces(of_gradients=False)
        if rows.empty:
            return rows
        setting = ["policy", "task", "regime", "lr", "seed"]
        return rows[rows["share"] == rows.groupby(setting)["share"].transform("max")]

    @cached_property
    def gradients(self) -> pd.DataFrame:
        """The overlaps of gradients under `attack` at the learning rate of the headline, with setting and excess."""
        rows = self._spaces(of_gradients=True)
        if rows.empty or self.at_choice.empty:
            return rows.iloc[:0]
        chosen = self.at_choice.loc[self.at_choice["threat"] == self.attack, "hash"]
        return rows[rows["hash"].isin(chosen)]

    def _spaces(self, *, of_gradients: bool) -> pd.DataFrame:
        if self.subspaces.empty or self.results.empty:
            return pd.DataFrame()
        about = self.results.drop_duplicates("hash")
        about = about[["hash", "share", "policy", "task", "threat", "regime", "lr", "seed"]]
        rows = self.subspaces[self.subspaces["step"].notna() == of_gradients].merge(about, on="hash")
        return rows.assign(excess=rows["overlap"] - rows["null_overlap"])

    def guard(self, **cell: str) -> float:
        """The utility that a learning rate has to keep: 0.9 of the best mean without a defense; NaN without one."""
        rows = _where(self.tuned, {**cell, "defense": NONE})
        best = rows.groupby("lr")["utility"].mean().max() if len(rows) else math.nan
        return GUARD * float(best)


def titles(cells: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """Short titles of panels: the parts of a cell in which the cells differ, the last part always.

    Args:
        cells: Tuples of one length.

    Returns:
        Cell to title.

    >>> titles([("digits", "sentiment", "adamw"), ("digits", "questions", "adamw")])[("digits", "sentiment", "adamw")]
    'sentiment, adamw'
    """
    listed = list(cells)
    if not listed:
        return {}
    varied = [len(set(parts)) > 1 for parts in zip(*listed, strict=True)]
    varied[-1] = True
    return {cell: ", ".join(part for part, shown in zip(cell, varied, strict=True) if shown) for cell in listed}


def panel_titles(rows: pd.DataFrame) -> list[str]:
    """The title of each row's panel: policy, task and optimizer, where they differ between rows."""
    cells = list(rows[["policy", "task", "regime"]].itertuples(index=False, name=None))
    named = titles(dict.fromkeys(cells))
    return [named[cell] for cell in cells]


def _in_order(table: pd.DataFrame, column: str) -> list[str]:
    return list(dict.fromkeys(table[column])) if column in table else []


def _where(rows: pd.DataFrame, cell: dict[str, str]) -> pd.DataFrame:
    for name, value in cell.items():
        if rows.empty:
            break
        rows = rows[rows[name] == value]
    return rows


def _by_seed(rows: pd.DataFrame, column: str, cell: dict[str, str]) -> pd.Series[float]:
    rows = _where(rows, cell)
    if rows.empty:
        return pd.Series(dtype="float64")
    return rows.groupby("seed")[column].mean().dropna().astype("float64")


def present(names: Sequence[str], rows: pd.DataFrame, column: str) -> list[str]:
    """Those of some names that a column has, in their order."""
    there = set(rows[column]) if column in rows else set()
    return [name for name in names if name in there]
