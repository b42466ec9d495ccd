"""What the figures of a comparison are drawn from."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from subspace_lab.figures.tables import AbsentError


@dataclass(frozen=True)
class Tables:
    """The tables of a comparison.

    Attributes:
        results: One row per cell.
        curves: One row per step of every cell.
        table: One row per method, at its best learning rate.
    """

    results: pd.DataFrame
    curves: pd.DataFrame
    table: pd.DataFrame

    def best(self) -> dict[str, pd.DataFrame]:
        """The curves of each method at its best learning rate, of the cells that came to their end.

        Returns:
            Method to rows, in the order of the comparison.

        Raises:
            AbsentError: If no cell did.
        """
        complete = set(self.results.loc[self.results["status"] == "complete", "cell"])
        lrs = dict(zip(self.table["method"], self.table["lr"], strict=True))
        curves = self.curves[self.curves["cell"].isin(complete)]
        found = {
            method: curves[(curves["method"] == method) & (curves["lr"] == lrs[method])]
            for method in dict.fromkeys(self.results["method"])
        }
        found = {method: rows for method, rows in found.items() if len(rows)}
        if not found:
            raise AbsentError("No cell came to its end.")
        return found

    def places(self) -> dict[str, int]:
        """The place of each method in the comparison; it decides how the method is drawn."""
        return {method: place for place, method in enumerate(dict.fromkeys(self.results["method"]))}
