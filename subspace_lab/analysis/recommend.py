"""From measured energy to optimizer settings: rank and refresh interval of each layer, with their evidence."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subspace_lab.analysis.arguments import check_run
from subspace_lab.analysis.energy import energy
from subspace_lab.analysis.notices import AnalysisNotice
from subspace_lab.analysis.told_apart import above_noise
from subspace_lab.runs import Run, RunError
from subspace_lab.runs.files import publish_json

if TYPE_CHECKING:
    import pandas as pd

SATURATION = 0.9
RETENTION = 0.5


@dataclass(frozen=True)
class LayerPlan:
    """The settings of one layer and the numbers they rest on.

    Attributes:
        layer: Canonical parameter name.
        rank: The smallest measured rank whose energy above the noise null is 90 % of the largest measured one.
        excess: Energy fraction above ``null_noise`` at this rank, mean over the captured steps.
        fraction: Energy fraction at this rank.
        null_noise: What noise would give.
        update_interval: Steps after which a stale basis still keeps half of what it held above r/m; the longest
            measured age at which it does, the shortest one when none does, None when the run has no stale energies.
        retained: The share kept at that age; None without stale energies.
        bound: "at least" when even the oldest measured basis keeps enough, "at most" when even the youngest does
            not, "" when the interval lies between measured ages.
        rank_bound: "at least" when the largest measured rank is the one, "at most" when already the smallest is,
            "only" when no other was measured, "" when the rank lies between measured ones.
        above_noise: Whether the energy at any measured rank is told from noise; where none is, the rank is the
            smallest measured one and rests on nothing.
    """

    layer: str
    rank: int
    excess: float
    fraction: float
    null_noise: float
    update_interval: int | None
    retained: float | None
    bound: str
    rank_bound: str = ""
    above_noise: bool = True


@dataclass(frozen=True)
class Plan:
    """Settings for every layer; saved as JSON.

    Attributes:
        layers: One plan per layer.
        steps: How many captured steps it rests on.
    """

    layers: tuple[LayerPlan, ...]
    steps: int

    def save(self, path: str | Path) -> None:
        """Write it as JSON, whole or not at all.

        Args:
            path: The file.

        Raises:
            RunError: If it cannot be written.
        """
        publish_json(Path(path), {"format": "subspace_lab.plan", "format_version": 1, **asdict(self)})

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read what `save` wrote.

        Args:
            path: The file.

        Returns:
            The plan.

        Raises:
            RunError: If the file is missing or no plan.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(tuple(LayerPlan(**layer) for layer in content["layers"]), content["steps"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path} is not a plan; write one with: subspace-lab recommend RUN_DIR") from error

    def table(self) -> pd.DataFrame:
        """The plan as a table, one row per layer."""
        import pandas as pd

        return pd.DataFrame([asdict(layer) for layer in self.layers])


def recommend(run: Run) -> Plan:
    """A rank and a refresh interval for every layer, from the energy table.

    The rank is where the energy above the noise null saturates; the interval is how long a stale basis keeps its
    energy above r/m. Both are read at the measured ranks and ages only, without interpolation: capture more often or
    analyse more ranks for finer answers. What lies above the null is structure and need not be signal.

    Args:
        run: A run; its energy table is used when it covers all captured steps, otherwise it is computed.

    Returns:
        The plan; layers without any gradient that is finite and other than zero are not in it, with a notice.

    Raises:
        RunError: If the run is not sound, or none of its gradients has any energy.
    """
    check_run(run)
    table = _energy_table(run).dropna(subset=["fraction"])
    plans = [_plan(str(name), rows) for name, rows in table.groupby("layer", observed=True, sort=False)]
    if not plans:
        raise RunError(f"{run.path} holds no gradient with any energy; capture while the model trains")
    planned = {plan.layer for plan in plans}
    if absent := [row["name"] for row in run.manifest["layers"] if row["name"] not in planned]:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        warnings.warn(f"no plan for {absent[0]}{more}: no gradient with any energy", AnalysisNotice, stacklevel=2)
    return Plan(tuple(plans), len(run.steps))


def _energy_table(run: Run) -> pd.DataFrame:
    try:
        table = run.table("energy")
    except RunError:
        return energy(run)
    return table if set(table["step"]) == set(run.steps) else energy(run)


def _plan(layer: str, rows: pd.DataFrame) -> LayerPlan:
    fresh = rows[rows["basis"] == "own"]
    own = fresh.groupby("rank")[["fraction", "null_noise", "null_isotropic"]].mean()
    excess = own["fraction"] - own["null_noise"]
    told = above_noise(fresh, "rank")
    rank = int(excess.index[(excess >= SATURATION * excess.max()).to_numpy().argmax() if told.any() else 0])
    here: dict[Any, float] = own.loc[rank].to_dict()
    stale = rows[(rows["basis"] == "stale") & (rows["rank"] == rank)].groupby("lag_steps")["fraction"].mean()
    above = here["fraction"] - here["null_isotropic"]
    held: dict[Any, float] = stale.to_dict()
    retained = {age: (value - here["null_isotropic"]) / above if above > 0 else 0.0 for age, value in held.items()}
    interval, share, bound = _interval(retained)
    return LayerPlan(
        layer=layer,
        rank=rank,
        excess=here["fraction"] - here["null_noise"],
        fraction=here["fraction"],
        null_noise=here["null_noise"],
        update_interval=interval,
        retained=share,
        bound=bound,
        rank_bound=_rank_bound(rank, own.index.tolist()),
        above_noise=bool(told.any()),
    )


def _rank_bound(rank: int, measured: list[int]) -> str:
    """How the rank lies to the measured ones; no rank is below 1."""
    if len(measured) == 1:
        return "only"
    return "at least" if rank == measured[-1] else "at most" if rank == measured[0] > 1 else ""


def _interval(retained: Mapping[int, float]) -> tuple[int | None, float | None, str]:
    """The longest age before the share kept first falls below the retention, with the share and the bound."""
    ages = list(retained)
    if not ages:
        return None, None, ""
    kept = 0
    while kept < len(ages) and retained[ages[kept]] >= RETENTION:
        kept += 1
    age = ages[max(kept - 1, 0)]
    bound = "at most" if kept == 0 else "at least" if kept == len(ages) else ""
    return int(age), float(retained[age]), bound
