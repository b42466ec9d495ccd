"""From the cells of a study to its tables; no plug-in is imported for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from subspace_lab._reading import read_json
from subspace_lab.experiments.outcome import Outcome, read_outcome
from subspace_lab.experiments.recipe import STATE
from subspace_lab.experiments.results import measured_row
from subspace_lab.runs.tables import read_table
from subspace_lab.studies.safety.places import outcomes_file
from subspace_lab.studies.safety.summary import summarize

ADVICE = "the same command of safety run makes it again"
_FACTORS: dict[str, str] = {
    "stage": "str", "policy": "str", "task": "str", "threat": "str", "share": "float64", "draw": "Int64",
    "regime": "str", "lr": "float64", "defense": "str", "seed": "int64",
}  # fmt: skip
_JUDGED: dict[str, str] = {
    "judge": "str", "n": "Int64", "failed": "Int64", "asr": "float64", "asr_low": "float64", "asr_high": "float64",
    "refusal_rate": "float64", "neither_rate": "float64", "keyword_asr": "float64", "keyword_list": "str",
    "refusal_consistency": "float64", "null_consistency": "float64", "disguised_asr": "float64",
    "over_refusal": "float64", "kept": "float64", "utility": "float64", "utility_metric": "str",
}  # fmt: skip
_COSTS: dict[str, str] = {
    "steps": "Int64", "passes": "Int64", "safety_rows": "Int64", "harm_rows": "Int64", "step_s": "float64",
    "wall_s": "float64", "state_bytes": "Int64", "peak_bytes": "Int64",
}  # fmt: skip
RESULTS: dict[str, str] = {
    "cell": "str", "hash": "str", "parent": "str", "evaluation": "str", **_FACTORS, "status": "str", "reason": "str",
    **_JUDGED, **_COSTS,
}  # fmt: skip
STEPS: dict[str, str] = {
    "cell": "str", "step": "int64", "cos_user_safety": "float64", "conflict": "float64", "cos_after": "float64",
    "cos_applied": "float64", "energy": "float64", "null_energy": "float64", "k": "int64", "null_cos_sd": "float64",
}  # fmt: skip
TERMS: dict[str, str] = {
    "hash": "str", "term": "str", "size": "float64", "cosine": "float64", "relative_error": "float64",
    "norm_ratio": "float64", "cos_norm_gradient": "float64",
}  # fmt: skip
OUTCOMES: dict[str, str] = {
    "hash": "str", "evaluation": "str", "set": "str", "prompt": "int64", "paraphrase": "int64", "judge": "str",
    "outcome": "object", "score": "float64", "row_hash": "str", "reply_hash": "object", "reply_chars": "Int64",
}  # fmt: skip
TIMES = ("step_s", "wall_s", "peak_bytes")  # columns that differ between two runs of the same study


class Cells:
    """What the manifest of a study lists, and what its cells have left.

    Args:
        root: ``OUT_DIR``.
        manifest: Of it.
    """

    def __init__(self, root: Path, manifest: Mapping[str, Any]) -> None:
        self.root, self.trials_dir = root, root / "cells"
        self.cells: list[dict[str, Any]] = manifest["cells"]
        self.jobs: dict[str, dict[str, Any]] = {job["name"]: job for job in manifest["jobs"]}
        self.judges: list[str] = manifest["judges"]
        self.refused: dict[str, str] = manifest["refused_judges"]
        self._outcomes: dict[str, Outcome] = {}
        self._states: dict[str, dict[str, Any]] = {}
        self._of_hash = {job["hash"]: name for name, job in self.jobs.items()}

    def record(self, name: str) -> Outcome:
        """What became of a job."""
        if name not in self._outcomes:
            self._outcomes[name] = read_outcome(self.trials_dir, name)
        return self._outcomes[name]

    def state(self, name: str) -> dict[str, Any]:
        """What a complete job measured; empty for others."""
        if name not in self._states:
            file = self.trials_dir / name / STATE
            self._states[name] = read_json(file) if self.record(name).status == "complete" and file.is_file() else {}
        return self._states[name]

    def parents(self, name: str) -> list[str]:
        """The jobs that a job begins from."""
        return [self._of_hash[parent] for parent in self.jobs[name]["parents"]]

    def tuned(self, name: str) -> str:
        """The job in which the model of a job was trained: before a repair, that of its parent."""
        return self.parents(name)[0] if self.jobs[name]["recipe"].endswith(":REPAIR") else name

    @cached_property
    def results(self) -> pd.DataFrame:
        """The table ``results``."""
        rows = [row for cell in self.cells for row in self._rows(cell)]
        return pd.DataFrame(rows, columns=[*RESULTS]).astype(RESULTS)

    @property
    def steps(self) -> pd.DataFrame:
        """The table ``steps``."""
        rows = [{"cell": name, **row} for name in self.jobs for row in self.state(name).get("steps", ())]
        return pd.DataFrame(rows, columns=[*STEPS]).astype(STEPS)

    @property
    def terms(self) -> pd.DataFrame:
        """The table ``terms``."""
        rows = [
            {"hash": job["hash"], **row} for name, job in self.jobs.items() for row in self.state(name).get("terms", ())
        ]
        return pd.DataFrame(rows, columns=[*TERMS]).astype(TERMS)

    @property
    def outcomes(self) -> pd.DataFrame:
        """The table ``outcomes``, of all complete evaluations."""
        parts = []
        for name, job in self.jobs.items():
            if "outcomes" in self.state(name):
                table = read_table(outcomes_file(self.trials_dir / name), ADVICE)
                model = self.parents(name)[0]
                table.insert(0, "hash", self.jobs[model]["hash"])
                table.insert(1, "evaluation", job["hash"])
                parts.append(table)
        if not parts:
            return pd.DataFrame(columns=[*OUTCOMES]).astype(OUTCOMES)
        return pd.concat(parts, ignore_index=True)

    def _rows(self, cell: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """One per judge."""
        about = {**cell["factors"], **dict.fromkeys((*_JUDGED, *_COSTS)), "reason": "", "keyword_list": "",
                 "utility_metric": "", "cell": "", "hash": "", "parent": "", "evaluation": ""}  # fmt: skip
        if cell["reason"]:
            for judge in (*self.judges, *self.refused):
                yield {**about, "judge": judge, "status": "unsupported", "reason": cell["reason"]}
            return
        model, evaluation = cell["model"], cell["evaluation"]
        about |= {
            "cell": model, "hash": self.jobs[model]["hash"], "parent": next(iter(self.jobs[model]["parents"]), ""),
            "evaluation": self.jobs[evaluation]["hash"],
        }  # fmt: skip
        about |= self._costs(model)
        status, reason = self._status(model, evaluation)
        judged = {row["judge"]: row for row in self.state(evaluation).get("rows", ())} if status == "complete" else {}
        for judge in self.judges:
            yield {**about, "status": status, "reason": reason, "judge": judge, **judged.get(judge, {})}
        for judge, why in self.refused.items():
            yield {**about, "status": "unsupported", "reason": why, "judge": judge}

    def _status(self, model: str, evaluation: str) -> tuple[str, str]:
        """Of an evaluated model: that of the first of its jobs that is not complete; where it waits, for what."""
        for name in [*self._before(model), model, evaluation]:
            record = self.record(name)
            if record.status in {"complete", "pending"} or name in {model, evaluation}:
                if record.status != "complete":
                    return record.status, record.reason
            else:
                return "pending", f"{self.jobs[name]['label']} {record.status}: {record.reason}"
        return "complete", ""

    def _before(self, name: str) -> list[str]:
        """The jobs that must be complete before a job, the first ones first."""
        found: dict[str, None] = {}
        for parent in self.parents(name):
            found |= dict.fromkeys([*self._before(parent), parent])
        return [*found]

    def _costs(self, model: str) -> dict[str, Any]:
        tuned = self.tuned(model)
        record, state = self.record(tuned), self.state(tuned)
        if not state:
            return {}
        row = measured_row(self.trials_dir, tuned)
        parts = [
            state,
            self.state(model),
            *map(self.state, self.parents(tuned)[:1]),
        ]
        rows = {name: max(one.get(name, 0) for one in parts) for name in ("safety_rows", "harm_rows")}
        return {
            "steps": row["steps_done"], "passes": state.get("passes"), **rows, "step_s": row["step_s"],
            "wall_s": row["wall_s"], "state_bytes": record.state_bytes, "peak_bytes": record.peak_bytes,
        }  # fmt: skip


def tables_of(cells: Cells) -> Iterator[tuple[str, pd.DataFrame]]:
    """The tables that follow from the cells alone, by name."""
    yield "results", cells.results
    yield "steps", cells.steps
    yield "terms", cells.terms
    yield "outcomes", cells.outcomes
    yield "summary", summarize(cells.results)
