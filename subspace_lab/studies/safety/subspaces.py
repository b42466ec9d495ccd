"""The table ``subspaces``: where alignment, clean and poisoned tunings went, and where gradients point.

Overlaps of updates are computed once for each pair of models; those of gradients were measured in the trainings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd

from subspace_lab.runs.tables import read_table
from subspace_lab.studies.safety.places import weights_dir
from subspace_lab.studies.safety.reading import CLEAN
from subspace_lab.studies.safety.stages import NONE
from subspace_lab.studies.safety.tables import ADVICE, Cells

SUBSPACES: dict[str, str] = {
    "hash": "str", "layer": "str", "depth": "int64", "kind": "str", "pair": "str", "rank_a": "int64",
    "rank_b": "int64", "m": "int64", "overlap": "float64", "null_overlap": "float64", "min_deg": "float64",
    "mean_deg": "float64", "clean": "str", "step": "Int64",
}  # fmt: skip
_GROUP = ("policy", "task", "draw", "regime", "lr", "seed")
_NOT_HARM = "identity"  # a threat without a restricted row
Measure = Callable[[], pd.DataFrame]


def subspace_table(cells: Cells) -> pd.DataFrame:
    """Overlaps of updates of every undefended tuning on poisoned rows, beside the clean one; and of gradients.

    What ``subspaces.parquet`` has of a pair of models is kept, so that the weights may be removed.

    Args:
        cells: Of a study.

    Returns:
        The columns of `SUBSPACES`: hash is of the poisoned model, clean of the clean one, empty where there is none.
        The overlaps of gradients have a step, and the hash of the model that was trained.
    """
    file = cells.root / "subspaces.parquet"
    before = read_table(file, ADVICE, SUBSPACES) if file.is_file() else pd.DataFrame(columns=[*SUBSPACES])
    before = before[before["step"].isna()]
    kept = dict(iter(before.groupby(["hash", "clean"], sort=False)))
    parts = []
    for harm, clean, measure in _wanted(cells):
        if (harm, clean) in kept:
            parts.append(kept[harm, clean])
        elif measure is not None:
            parts.append(measure().assign(hash=harm, clean=clean, step=None)[[*SUBSPACES]])
    parts += [
        pd.DataFrame(rows).assign(hash=job["hash"], clean="")[[*SUBSPACES]]
        for name, job in cells.jobs.items()
        if (rows := cells.state(name).get("overlaps"))
    ]
    parts = [part for part in parts if len(part)]
    table = pd.concat(parts, ignore_index=True) if parts else before.iloc[:0]
    return table.astype(SUBSPACES)


def _wanted(cells: Cells) -> Iterator[tuple[str, str, Measure | None]]:
    groups: dict[tuple[Any, ...], dict[str, str]] = {}
    for cell in cells.cells:
        factors = cell["factors"]
        if factors["stage"] != "tuned" or factors["defense"] != NONE or factors["threat"].startswith(_NOT_HARM):
            continue
        if cell["model"] is not None and cells.record(cell["model"]).status == "complete":
            key = tuple(factors[name] for name in _GROUP)
            groups.setdefault(key, {})[factors["threat"]] = cell["model"]
    for models in groups.values():
        clean = models.pop(CLEAN, None)
        for name in models.values():
            of_clean = "" if clean is None else cells.jobs[clean]["hash"]
            yield cells.jobs[name]["hash"], of_clean, _overlaps(cells, clean, name)


def _overlaps(cells: Cells, clean: str | None, harm: str) -> Measure | None:
    """None where weights are gone, or there is nothing to pair."""
    aligned = cells.parents(harm)[0]
    names = {"aligned": aligned, "base": next(iter(cells.parents(aligned)), None), "utility": clean, "harm": harm}
    paths = {role: weights_dir(cells.trials_dir / name) for role, name in names.items() if name is not None}
    if len(paths) < 3 or not all(path.is_dir() for path in paths.values()):
        return None

    def measure() -> pd.DataFrame:
        from subspace_lab.studies.safety.referee.updates import update_overlaps
        from subspace_lab.studies.safety.weights import tensors

        of = {role: tensors(path) for role, path in paths.items()}
        return update_overlaps(of["aligned"], base=of.get("base"), utility=of.get("utility"), harm=of["harm"])

    return measure
