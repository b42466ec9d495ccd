"""Run a study, open one, make its tables and its report again, and verify it."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import pandas as pd

from subspace_lab._checks import check_choice
from subspace_lab._extras import require
from subspace_lab._paths import local_path
from subspace_lab._text import count
from subspace_lab.experiments.executors.choose import Kind as ExecutorKind, executor_of
from subspace_lab.experiments.outcome import read_outcome
from subspace_lab.experiments.plugins import absolute, import_plugins
from subspace_lab.experiments.recipe import WEIGHTS, is_shared, weights_hash
from subspace_lab.experiments.schedule import is_complete, run_missing
from subspace_lab.experiments.store import Kind, Store
from subspace_lab.experiments.study import StudyInterrupted, say
from subspace_lab.experiments.trial import Trial
from subspace_lab.figures.all import save_all
from subspace_lab.runs import RunError
from subspace_lab.runs.files import publish
from subspace_lab.runs.tables import read_table, write_table
from subspace_lab.studies.safety import page as pages
from subspace_lab.studies.safety.config import StudyConfig
from subspace_lab.studies.safety.content import forget
from subspace_lab.studies.safety.figures.all import FIGURES
from subspace_lab.studies.safety.jobs import Jobs, jobs_of
from subspace_lab.studies.safety.places import outcomes_file, weights_dir
from subspace_lab.studies.safety.publishing import check_has_cells, publish_tables
from subspace_lab.studies.safety.reading import Tables
from subspace_lab.studies.safety.report import write_report
from subspace_lab.studies.safety.subspaces import SUBSPACES, subspace_table
from subspace_lab.studies.safety.summary import COLUMNS as SUMMARY
from subspace_lab.studies.safety.tables import ADVICE, OUTCOMES, RESULTS, STEPS, TERMS, Cells, tables_of
from subspace_lab.training import TrainConfig
from subspace_lab.training.config import Sharding
from subspace_lab.training.sharding import check_shares
from subspace_lab.training.start import faster_precision

SAFETY = Kind("safety", "study.json", "cells", "a safety study")
Keep = Literal["all", "none"]
_KEEP: tuple[Keep, ...] = ("all", "none")
_TABLES: dict[str, Mapping[str, str]] = {
    "results": RESULTS, "steps": STEPS, "outcomes": OUTCOMES, "terms": TERMS, "summary": SUMMARY,
    "subspaces": SUBSPACES,
}  # fmt: skip
_AGAIN = {"diverged", "failed"}  # begun again only where that is asked for


@dataclass(frozen=True)
class Study:
    """A study on disk, from `run` or `Study.open`; tables are read when they are asked for.

    Attributes:
        path: ``OUT_DIR``.
        manifest: The content of ``study.json``: settings, cells and jobs.
    """

    path: Path
    manifest: Mapping[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a study; no plug-in is imported.

        Args:
            path: ``OUT_DIR``.

        Returns:
            The study.

        Raises:
            RunError: If there is none, or its manifest is damaged.
        """
        root = local_path(path, error=RunError)
        store = Store.open(root, SAFETY)
        _check_manifest(root, store.manifest)
        return cls(root, store.manifest)

    @property
    def config(self) -> StudyConfig:
        """What the last call of `run` asked for, with the precision that was settled."""
        return StudyConfig.from_dict(self.manifest["settings"])

    @property
    def results(self) -> pd.DataFrame:
        """One row per evaluated model and judge, and per cell that is not supported."""
        return self._read("results")

    @property
    def outcomes(self) -> pd.DataFrame:
        """One row per prompt, paraphrase and judge of every evaluation."""
        return self._read("outcomes")

    @property
    def steps(self) -> pd.DataFrame:
        """The conflict of user and safety gradients at the probed steps of every tuning."""
        return self._read("steps")

    @property
    def subspaces(self) -> pd.DataFrame:
        """Overlaps of what alignment and tunings changed, matrix by matrix."""
        return self._read("subspaces")

    @property
    def terms(self) -> pd.DataFrame:
        """The terms of Booster and Panacea beside true products with the Hessian."""
        return self._read("terms")

    @property
    def summary(self) -> pd.DataFrame:
        """The headline: the attacker's worst case of every defense."""
        return self._read("summary")

    @property
    def tables(self) -> Tables:
        """All of these but `outcomes`, as figures and claims look at them."""
        return Tables(**{one.name: getattr(self, one.name) for one in dataclasses.fields(Tables)})

    def draw(self) -> Path:
        """Make tables, figures and report again, from the cells.

        Returns:
            ``report.html``.

        Raises:
            RunError: If somebody else is writing there, something cannot be read or written, or there are no cells.
        """
        check_has_cells(self.path, self.manifest)
        with Store.open(self.path, SAFETY).writing():
            return _conclude(self.path, self.manifest)

    def page(self, path: str | Path, pictures: str | Path | None = None) -> Path:
        """Draw the figures and write the page that says claim by claim what came out, from the tables alone.

        Args:
            path: A Markdown file.
            pictures: Where the figures go; ``figures`` of the study by default.

        Returns:
            The page.

        Raises:
            RunError: If a table cannot be read, or something cannot be written.
        """
        page = local_path(path, error=RunError)
        target = self.path / "figures" if pictures is None else local_path(pictures, error=RunError)
        tables, environment = self.tables, self.manifest["environment"]
        save_all(FIGURES, tables, target)
        pages.write(tables, page, config=self.config, environment=environment, data=self.path, pictures=target)
        return page

    def publish(self, directory: str | Path) -> Path:
        """Copy the tables, all but `outcomes`, to where they are kept: without cells and weights, a few hundred kB.

        Args:
            directory: New, empty, or an earlier copy.

        Returns:
            The directory, which `open` opens.

        Raises:
            RunError: If the directory holds something else, or cannot be written.
        """
        target = local_path(directory, error=RunError)
        publish_tables(self.path, self.manifest, target, SAFETY)
        return target

    def verify(self) -> list[str]:
        """Every hash again: jobs, splits, weights, outcomes, and the tables against the cells.

        Returns:
            A line per difference; none where all is as it was.

        Raises:
            RunError: If there are no cells, but a copy of tables.
        """
        check_has_cells(self.path, self.manifest)
        from subspace_lab.studies.safety.verify import differences

        return [*differences(self.path, self.manifest)]

    def _read(self, name: str) -> pd.DataFrame:
        file = self.path / f"{name}.parquet"
        if not file.is_file():
            raise RunError(f"{self.path} has no table {name}; {ADVICE}")
        return read_table(file, ADVICE, _numbers(_TABLES.get(name)))


def run(
    out_dir: str | Path,
    config: StudyConfig,
    *,
    executor: ExecutorKind = "local",
    workers: int | None = None,
    slurm: Mapping[str, Any] | None = None,
    processes: int | None = None,
    sharding: Sharding | None = None,
    retry: bool = False,
    keep_weights: Keep = "all",
) -> Study:
    """Train, attack, defend and judge whatever a study asks for and ``OUT_DIR`` does not have yet.

    Every job is known by a hash of all that decides its outcome; what is there under its hash is not run again. After
    an interruption at any instant the same call goes on. Another configuration in the same ``OUT_DIR`` adds its cells;
    the tables are those of the last one.

    Args:
        out_dir: ``OUT_DIR``.
        config: What to compare.
        executor: ``local`` for processes of this machine, ``slurm`` for job arrays.
        workers: Jobs at a time; by default one per GPU, else per core, or as many as Slurm gives.
        slurm: Options of Slurm: ``{"partition": "gpu", "time": 60}``.
        processes: Of one training, 1 by default; several are begun by torchrun. Repairs, evaluations, and trainings
            with defenses or looks at gradients are of one process in any case.
        sharding: How they share it: ``ddp`` (the default) keeps the whole model in each of them, ``fsdp`` shards it.
        retry: Begin jobs again that diverged or failed.
        keep_weights: ``none`` removes all weights at the end, when everything is complete.

    Returns:
        The study.

    Raises:
        ValueError: If a name or a setting is not known, or a plug-in cannot be imported; one line.
        RunError: If ``OUT_DIR`` holds something else, cannot be written, or Slurm refuses the jobs.
        ModuleNotFoundError: Without the packages that it needs.
        StudyInterrupted: After Ctrl-C.
    """
    check_choice("keep_weights", keep_weights, _KEEP)
    if config.precision == "auto" and executor == "slurm":
        raise ValueError(
            "precision='auto' measures the faster one here, and Slurm would train elsewhere; give float32 or bfloat16"
        )
    root, config, jobs = prepared(out_dir, config)
    running = executor_of(root / SAFETY.trials, executor, workers, slurm, processes=processes, sharding=sharding)
    shared = shared_jobs(jobs.trials, processes)
    store = Store.existing(root, SAFETY) or Store.begin(root, SAFETY, config.to_dict())
    with store.writing():
        store.note(**_entries(config, jobs))
        missing = missing_jobs(root, jobs.trials, retry=retry)
        if missing:
            done = len(jobs.trials) - len(missing)
            say(f"{count(done, 'job')} complete, {len(missing)} to come")
            if processes is not None and processes > 1:
                say(shared_line(shared, missing, processes))
        try:
            with running:
                run_missing(
                    store.trials_dir, missing, running, names={one.hash: one.name for one in jobs.trials},
                    parents={parent for one in jobs.trials for parent in one.parents},
                    plugins=absolute(config.plugins), metric="asr",
                )  # fmt: skip
        except KeyboardInterrupt:
            _conclude(root, store.manifest)
            raise StudyInterrupted(root) from None
        _conclude(root, store.manifest)
        if left := missing_jobs(root, jobs.trials, retry=True):
            lost = next((one for one in left if _status(root, one) != "pending"), left[0])
            record = read_outcome(store.trials_dir, lost.name)
            say(f"jobs that are not complete: {len(left)} ({lost.label} {record.status}: {record.reason})")
        elif keep_weights == "none":
            _remove_weights(root, jobs.trials)
    return Study(root, store.manifest)


def shared_jobs(trials: Sequence[Trial], processes: int | None) -> set[str]:
    """The jobs that several processes share: trainings without defenses and without looks at gradients.

    Args:
        trials: All jobs.
        processes: How many; None for one.

    Returns:
        Their hashes; ValueError if their batches cannot be shared by so many.
    """
    found = [one for one in trials if is_shared(one.recipe, one.config)] if (processes or 1) > 1 else []
    for one in found:
        check_shares(TrainConfig.from_dict(one.config["train"]), processes)
    return {one.hash for one in found}


def shared_line(shared: Collection[str], trials: Sequence[Trial], processes: int) -> str:
    """How many of some jobs so many processes share, and why not the others."""
    number = sum(one.hash in shared for one in trials)
    return (
        f"{count(number, 'job')} by {processes} processes each; {len(trials) - number} by one, since repairs, "
        "evaluations, defenses and looks at gradients (probe_every) are of one process"
    )


def prepared(out_dir: str | Path, config: StudyConfig) -> tuple[Path, StudyConfig, Jobs]:
    """What a run begins with: nothing is written.

    Args:
        out_dir: ``OUT_DIR``.
        config: What to compare.

    Returns:
        The directory, the configuration with its precision settled, and the jobs; see `run` for what is raised.
    """
    require("transformers", extra="hf")
    if any("lora" in one for grid in config.grids for one in grid.regimes):
        require("peft", extra="peft")
    root = local_path(out_dir, error=RunError)
    forget()
    import_plugins(config.plugins)
    before = Store.existing(root, SAFETY)
    if config.precision == "auto":
        settled = None if before is None else before.settings.get("precision")
        config = dataclasses.replace(
            config, precision=settled if settled in {"float32", "bfloat16"} else _faster_precision()
        )
    return root, config, jobs_of(config)


def missing_jobs(root: Path, trials: Sequence[Trial], *, retry: bool = False) -> list[Trial]:
    """The jobs to run: incomplete ones, and those whose weights are gone or altered and that one of these begins from.

    Args:
        root: ``OUT_DIR``.
        trials: All jobs, parents before their children.
        retry: Whether diverged and failed ones are begun again.

    Returns:
        Some of the jobs, in their order.
    """
    cells = root / SAFETY.trials
    names = {one.hash: one.name for one in trials}
    needed: set[str] = set()  # of jobs that are missing, whose parents' weights have to be there
    found = []
    for one in reversed(trials):
        status = _status(root, one)
        if status in _AGAIN and not retry:
            continue
        if not _is_there(cells, one, names) or (one.hash in needed and not _has_weights(cells / one.name)):
            found.append(one)
            needed |= {*one.parents}
            if status == "complete":  # it is run again from nothing
                shutil.rmtree(cells / one.name, ignore_errors=True)
    return found[::-1]


def _status(root: Path, trial: Trial) -> str:
    return read_outcome(root / SAFETY.trials, trial.name).status


def _is_there(cells: Path, trial: Trial, names: Mapping[str, str]) -> bool:
    if not is_complete(cells, trial, names):
        return False
    return outcomes_file(cells / trial.name).is_file() if trial.recipe.endswith(":EVALUATE") else True


def _has_weights(cell: Path) -> bool:
    """Whether the weights of a complete job are those of its record."""
    recorded = read_outcome(cell.parent, cell.name).weights
    return recorded is not None and weights_hash(cell) == recorded and weights_dir(cell).is_dir()


def _entries(config: StudyConfig, jobs: Jobs) -> dict[str, Any]:
    """What the manifest says of a study, enough to make its tables without a plug-in."""
    return {
        "settings": config.to_dict(),
        "judges": list(jobs.judges),
        "refused_judges": dict(jobs.refused),
        "cells": [
            {"factors": dict(cell.factors), "reason": cell.reason, "model": cell.model and cell.model.name,
             "evaluation": cell.evaluation and cell.evaluation.name}
            for cell in jobs.cells
        ],
        "jobs": [
            {"name": one.name, "label": one.label, "hash": one.hash, "recipe": one.recipe, "config": one.config,
             "content": one.content, "parents": list(one.parents)}
            for one in jobs.trials
        ],
    }  # fmt: skip


def _conclude(root: Path, manifest: Mapping[str, Any]) -> Path:
    """Write tables, figures and report."""
    cells = Cells(root, manifest)
    tables = {**dict(tables_of(cells)), "subspaces": subspace_table(cells)}
    for name, table in tables.items():
        write_table(root / f"{name}.parquet", table)
    _write_text(root / "table.csv", tables["summary"].to_csv(index=False))
    _write_text(
        root / "table.tex", tables["summary"].to_latex(index=False, escape=True, float_format="%.3f", na_rep="")
    )
    given = Tables(**{one.name: tables[one.name] for one in dataclasses.fields(Tables)})
    save_all(FIGURES, given, root / "figures")
    return write_report(root, given, config=manifest["settings"], environment=manifest["environment"])


def _write_text(path: Path, text: str) -> None:
    with publish(path) as aside:
        aside.write_text(text, encoding="utf-8")


def _remove_weights(root: Path, trials: Collection[Trial]) -> None:
    for one in trials:
        cell = root / SAFETY.trials / one.name
        shutil.rmtree(weights_dir(cell), ignore_errors=True)
        (cell / WEIGHTS).unlink(missing_ok=True)


def _check_manifest(root: Path, manifest: Mapping[str, Any]) -> None:
    for name in ("cells", "jobs", "judges", "refused_judges"):
        if name not in manifest:
            raise RunError(f"{root / SAFETY.manifest} has no valid {name!r}; restore it from a copy")


@functools.cache
def _faster_precision() -> Any:
    import torch

    return faster_precision(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def _numbers(columns: Mapping[str, str] | None) -> Mapping[str, str] | None:
    """The columns that `read_table` can check: texts that may be missing are not among them."""
    return None if columns is None else {name: kind for name, kind in columns.items() if kind != "object"}
