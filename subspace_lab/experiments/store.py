"""The directory of a study: manifest, identity, tables, the directories of its trials.

``results.parquet`` has a row per trial, ``curves.parquet`` its steps, ``tables`` what the study derives. The
directories of complete trials may be removed. One process writes at a time.
"""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pandas as pd

from subspace_lab._reading import read_json
from subspace_lab._version import __version__
from subspace_lab.experiments.outcome import outcome_path, read_outcome
from subspace_lab.experiments.results import CURVE, KEYS, MEASURED, TRAINING, curve_of, measured_row, steps_done
from subspace_lab.experiments.trial import Trial
from subspace_lab.runs import RunError, environment
from subspace_lab.runs.files import publish_json, remove_partial, unwritable
from subspace_lab.runs.lock import lock, unlock
from subspace_lab.runs.tables import read_table, write_table
from subspace_lab.training.tasks.base import LOSS, Metric

FORMAT_VERSION = 2
RESULTS, CURVES, TABLES = "results", "curves", "tables"
ADVICE = "restore it from a copy, or remove it, and the same command makes it again"
_PENDING = {"status": "pending", "reason": "", "attempts": 0, "steps_done": 0}
_CARRIED = ("method", "lr", "seed")  # factors that stand in the curves too
_MATCHED = ("method", "preset", "steps", "lr", "lr_rest", "seed", "captured")  # factors that a format 1 row is known by
_KEPT = ("created", "library_version", "environment", "data_hash")  # of a manifest of format 1

Row = dict[str, Any]
Key = tuple[Any, ...]


@dataclass(frozen=True)
class Kind:
    """The layout of the directories of a kind of study.

    Attributes:
        name: The manifest's ``format`` is ``subspace_lab.<name>``.
        manifest: File name of the manifest.
        trials: Path of the trials' directories, relative to the study's.
        holds: The content in messages: "a comparison".
        metric: What its trials are compared by.
        factors: Columns and dtypes of a trial's factors.
        columns: Further columns and dtypes of the result table.
        describe: The values of these columns for a trial.
        shares: Names in ``metrics.jsonl`` that the curves keep beside loss and metric.
        also: What else of a trial's last evaluation the result table has, empty where a trial did not measure it.
        points: Largest number of points of a curve; None for every step.
        grows: Name of the setting that a later call may add entries to, if there is one.
        upgrade: Reads the settings and the tables of a directory of format 1; rows of its ``results`` have ``format`` 1
            and, where their configuration is still the same, an empty ``trial``.
    """

    name: str
    manifest: str
    trials: str
    holds: str
    metric: Metric = LOSS
    factors: Mapping[str, str] = field(default_factory=lambda: TRAINING)
    columns: Mapping[str, str] = field(default_factory=dict)
    describe: Callable[[Trial], Mapping[str, Any]] = lambda _: {}
    shares: tuple[str, ...] = ()
    also: tuple[Metric, ...] = ()
    points: int | None = None
    grows: str = ""
    upgrade: Callable[[Path, dict[str, Any]], tuple[dict[str, Any], dict[str, pd.DataFrame]]] | None = None

    @property
    def schemas(self) -> dict[str, dict[str, str]]:
        """Columns of the result table and of the curves."""
        metric = {self.metric.name: "float64"}
        also = {one.name: "float64" for one in self.also}
        carried = {name: dtype for name, dtype in self.factors.items() if name in _CARRIED}
        return {
            RESULTS: {**KEYS, **self.factors, **MEASURED, **metric, **also, **self.columns},
            CURVES: {**CURVE, **carried, **metric, **dict.fromkeys(self.shares, "float64")},
        }


class Store:
    """The directory of a study, from `Store.open` or `Store.begin`.

    Attributes:
        path: The directory.
        kind: Its layout.
        manifest: The content of its manifest, in format 2.
        changed: Directories of the trials whose rows have changed since it was opened.
    """

    def __init__(
        self, path: Path, kind: Kind, manifest: dict[str, Any], old: dict[str, pd.DataFrame] | None = None
    ) -> None:
        self.path, self.kind, self.manifest = path, kind, manifest
        self._old = old or {}  # tables of format 1 that are not written in format 2 yet
        self._tables = dict(self._old)
        self.changed: set[str] = set()
        self._of: pd.DataFrame | None = None  # the result table that the following two are of
        self._rows: list[Row] = []
        self._places: dict[Key, int] = {}

    @classmethod
    def open(cls, path: Path, kind: Kind) -> Self:
        """Open a study for reading, format 1 as format 2; RunError where there is none or its manifest is damaged."""
        file = path / kind.manifest
        try:
            if not file.is_file():
                raise RunError(f"{path} holds no {kind.holds.removeprefix('a ')}; give the directory of one")
            manifest = read_json(file)
        except (ValueError, OSError) as error:
            raise RunError(f"{file} cannot be read ({error}); restore it from a copy") from error
        if not isinstance(manifest, dict) or manifest.get("format") != f"subspace_lab.{kind.name}":
            raise RunError(f"{file} is not the manifest of {kind.holds}; choose another directory")
        version = manifest.get("format_version")
        if version == 1 and kind.upgrade is not None:
            settings, tables = kind.upgrade(path, manifest)
            kept = {name: manifest[name] for name in _KEPT if name in manifest}
            return cls(path, kind, {**_new_manifest(kind, settings), **kept}, tables)
        if version != FORMAT_VERSION:
            what = "choose another directory" if version == 1 else "upgrade subspace_lab, or restore it from a copy"
            raise RunError(f"{file} has format version {version!r}, this release reads {FORMAT_VERSION}; {what}")
        for name in ("environment", "settings"):
            if not isinstance(manifest.get(name), dict):
                raise RunError(f"{file} has no valid {name!r}; restore it from a copy")
        return cls(path, kind, manifest)

    @classmethod
    def existing(cls, path: Path, kind: Kind) -> Self | None:
        """The study in a directory, None where there is room for one; RunError if it holds something else."""
        if (path / kind.manifest).exists():
            return cls.open(path, kind)
        try:
            if path.exists() and not path.is_dir():
                raise RunError(f"{path} is a file; choose another directory")
            if path.is_dir() and any(not entry.name.startswith(".") for entry in path.iterdir()):
                noun = kind.holds.removeprefix("a ")
                raise RunError(f"{path} is not empty and holds no {noun}; choose another directory")
        except OSError as error:
            raise RunError(unwritable(path, error)) from error
        return None

    @classmethod
    def begin(cls, path: Path, kind: Kind, settings: Mapping[str, Any]) -> Self:
        """Create or continue a study of JSON-ready settings, in format 2; RunError names other settings it may have."""
        wanted = json.loads(json.dumps(settings))
        store = cls.existing(path, kind)
        if store is None:
            store = cls(path, kind, _new_manifest(kind, wanted))
            store._publish_manifest()
        else:
            store._join(wanted)
        return store

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Lock the directory against other writers, or raise RunError if there is one."""
        held = lock(self.path, take_over=False)
        try:
            remove_partial(self.path)
            yield
        finally:
            unlock(held)

    @property
    def settings(self) -> dict[str, Any]:
        """The identity of the study."""
        return dict(self.manifest["settings"])

    @property
    def trials_dir(self) -> Path:
        """The directory of all trials."""
        return self.path / self.kind.trials

    @property
    def results(self) -> pd.DataFrame:
        """One row per trial, whatever became of it; not to be changed."""
        return self.read(RESULTS)

    @property
    def curves(self) -> pd.DataFrame:
        """One row per step, or block of steps, of every trial; not to be changed."""
        return self.read(CURVES)

    def note(self, **entries: Any) -> None:
        """Publish the manifest with further entries, or others; JSON-ready values."""
        self.manifest.update(json.loads(json.dumps(entries)))
        self._publish_manifest()

    def data_hash(self, find: Callable[[], str]) -> str:
        """The recorded hash of the data that the trials read; if there is none, that which `find` gives is recorded."""
        if not isinstance(self.manifest.get("data_hash"), str):
            self.manifest["data_hash"] = find()
            self._publish_manifest()
        return str(self.manifest["data_hash"])

    def check_data(self, found: str) -> None:
        """RunError if the tables are of data with another hash than `found`, so that different data are not mixed."""
        before = self.manifest.get("data_hash", found)
        if before != found:
            raise RunError(
                f"{self.path} rests on other data (hash {str(before)[:12]}, here {found[:12]}; a file was changed, "
                "or the standard library is that of another Python); go on where they are the same, or choose another "
                "directory"
            )

    def rows_of(self, trials: Iterable[Trial]) -> list[Row]:
        """The rows that the result table has of some trials: by content, or rows of format 1 with the same factors."""
        places = dict.fromkeys(place for place in map(self._place, trials) if place is not None)
        return [self._records()[place] for place in places]

    def missing(self, trials: Iterable[Trial], *, retry: Collection[str] = ()) -> list[Trial]:
        """Those to run, each once: pending, cut and killed ones, and diverged and failed ones as `retry` says."""
        done, drawn = {"complete", "diverged", "failed"} - set(retry), set(self.curves["cell"])
        left = {}
        for trial in trials:
            row = self._row(trial)
            if row.get("status") not in done or (row["steps_done"] and row["cell"] not in drawn):
                left[trial.hash] = trial
        return [*left.values()]

    def cell_of(self, trial: Trial) -> str:
        """The directory of a trial: that of its row, since a row of format 1 has an older name."""
        return str(self._row(trial).get("cell", trial.name))

    def enroll(self, trials: Sequence[Trial]) -> None:
        """Add rows for trials that the result table lacks: pending until `refresh`, or equal to a twin's."""
        self._promote(trials)
        new: dict[Key, Trial] = {}
        for trial in trials:
            if self._place(trial) is None:
                new.setdefault(self._key(trial.hash, trial.factors), trial)
        twins, rows = {row["trial"]: row for row in self._records()}, []
        for trial in new.values():
            twin = twins.setdefault(trial.hash, {**_PENDING, "cell": trial.name})  # the same by another name
            factors = {name: trial.factors.get(name) for name in self.kind.factors}
            about = {"trial": trial.hash, "format": FORMAT_VERSION, **self.kind.describe(trial)}
            rows.append({**twin, **factors, **about})
        if rows:
            self.write(RESULTS, self._joined(self.results, rows))
            self._refresh_curves(row["cell"] for row in rows if row["status"] != "pending")

    def _promote(self, trials: Sequence[Trial]) -> None:
        """Note which trials that were run to tune are the evaluation, too."""
        evaluated = {self._place(trial) for trial in trials if trial.factors.get("phase") == "evaluate"}
        places = [place for place in evaluated if place is not None and self._rows[place].get("phase") == "tune"]
        if places:
            phase = self.results["phase"].copy()
            phase.iloc[places] = "evaluate"
            self.write(RESULTS, self.results.assign(phase=phase))

    def refresh(
        self, absorb: Callable[[pd.DataFrame], None] = lambda _: None, trials: Iterable[Trial] | None = None
    ) -> None:
        """Read what trials have left in their directories into the tables.

        Args:
            absorb: Called with the new rows of trials that have become complete, before these rows are published; it
                makes further tables from their directories.
            trials: Whose directories are looked at; all by default.

        Raises:
            RunError: If the metrics of a trial cannot be read.
        """
        drawn = set(self.curves["cell"])
        rows = self._records() if trials is None else self.rows_of(trials)
        before = {row["cell"]: row["status"] for row in rows if self._differs(row, drawn)}
        if not before:
            return
        changed = {cell: measured_row(self.trials_dir, cell, self.kind.metric, self.kind.also) for cell in before}
        rows = [{**row, **changed.get(row["cell"], {})} for row in self._records()]
        now = self._joined(self.results.iloc[:0], rows)
        complete = [cell for cell, row in changed.items() if row["status"] == "complete" != before[cell]]
        absorb(now[now["cell"].isin(complete)])
        self._refresh_curves(changed)
        self.write(RESULTS, now)  # last: where a row is complete, everything of the trial is there
        self.changed |= changed.keys()

    def forget(self, trials: Sequence[Trial]) -> None:
        """Remove everything that is known of some trials, including their directories."""
        gone = {row["cell"] for row in self.rows_of(trials)}
        for cell in gone:
            shutil.rmtree(self.trials_dir / cell, ignore_errors=True)
            outcome_path(self.trials_dir, cell).unlink(missing_ok=True)
        for name in (RESULTS, CURVES, *(file.stem for file in sorted((self.path / TABLES).glob("*.parquet")))):
            table = self.read(name)
            if "cell" in table and table["cell"].isin(gone).any():
                self.write(name, table[~table["cell"].isin(gone)].reset_index(drop=True))

    def has(self, name: str) -> bool:
        """Whether there is a table of that name."""
        return name in self._tables or self._file(name).is_file()

    def read(self, name: str, columns: Mapping[str, str] | None = None) -> pd.DataFrame:
        """A table, not to be changed, empty where there is none; RunError if it is damaged or has not these columns."""
        if name not in self._tables:
            columns = columns or self.kind.schemas.get(name)
            if not self._file(name).is_file():
                return pd.DataFrame(columns=[*(columns or ())]).astype(columns or {})
            self._tables[name] = read_table(self._file(name), ADVICE, columns)
        return self._tables[name]

    def write(self, name: str, table: pd.DataFrame) -> None:
        """Publish a table."""
        write_table(self._file(name), table)
        self._tables[name] = table

    def add(self, name: str, rows: pd.DataFrame) -> None:
        """Publish a table with rows added; earlier rows of the same trials (column ``cell``) are replaced."""
        before = self.read(name)
        if not before.empty:
            kept = before[~before["cell"].isin(set(rows["cell"]))]
            rows = pd.concat([kept, rows], ignore_index=True) if len(kept) else rows
        self.write(name, rows)

    def remove(self, name: str) -> None:
        """Remove a table, so that it is made again."""
        self._tables.pop(name, None)
        self._file(name).unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        folder = self.path if name in {RESULTS, CURVES} else self.path / TABLES
        return folder / f"{name}.parquet"

    def _records(self) -> list[Row]:
        """The rows of the result table, read again after it has changed."""
        if self._of is not self.results:
            self._of = self.results
            self._rows = [{str(name): value for name, value in row.items()} for row in self._of.to_dict("records")]
            keys = [self._key(row["trial"], row) if row["trial"] else _matched(row) for row in self._rows]
            self._places = {key: place for place, key in enumerate(keys)}
        return self._rows

    def _place(self, trial: Trial) -> int | None:
        """Where the row of a trial is in the result table."""
        self._records()
        return self._places.get(self._key(trial.hash, trial.factors), self._places.get(_matched(trial.factors)))

    def _row(self, trial: Trial) -> Row:
        """The row of a trial, empty where it has none."""
        place = self._place(trial)
        return {} if place is None else self._records()[place]

    def _key(self, trial_hash: str, factors: Mapping[str, Any]) -> Key:
        """What distinguishes rows: the content, and what it is called; the phase does not."""
        return (trial_hash, *_values(factors, (name for name in self.kind.factors if name != "phase")))

    def _differs(self, row: Row, drawn: Collection[str]) -> bool:
        """Whether the directory of a trial differs from its row and its curve."""
        cell, metrics = row["cell"], self.trials_dir / row["cell"] / "metrics.jsonl"
        outcome = read_outcome(self.trials_dir, cell)
        if outcome.status == "pending":  # killed with the study, or removed
            return bool(row["status"] == "pending" and metrics.exists())
        if any(getattr(outcome, name) != row[name] for name in ("status", "reason", "attempts")):
            return True
        if not metrics.exists():
            return False
        if row["status"] == "complete":
            return cell not in drawn
        return int(row["steps_done"]) != steps_done(self.trials_dir, cell)  # begun again in an empty directory

    def _refresh_curves(self, cells: Iterable[str]) -> None:
        kind, columns, parts = self.kind, self.kind.schemas[CURVES], []
        held = set(self.curves["cell"])
        for cell in dict.fromkeys(cells):
            curve = curve_of(self.trials_dir, cell, kind.shares, kind.metric, kind.points)
            if curve.empty and cell in held:  # a new name of a trial whose directory was removed
                curve = self.curves[self.curves["cell"] == cell].drop_duplicates("step")
            for row in self.results[self.results["cell"] == cell].to_dict("records") if len(curve) else ():
                parts.append(curve.assign(**{name: row[name] for name in _CARRIED if name in columns}))
        if parts:
            self.add(CURVES, pd.concat(parts, ignore_index=True)[[*columns]])

    def _joined(self, table: pd.DataFrame, rows: Sequence[Row]) -> pd.DataFrame:
        columns = self.kind.schemas[RESULTS]
        new = pd.DataFrame(list(rows), columns=[*columns]).astype(columns)
        return new if table.empty else pd.concat([table[[*columns]].astype(columns), new], ignore_index=True)

    def _join(self, wanted: dict[str, Any]) -> None:
        """Check that the existing study has the wanted settings, and write it in format 2."""
        before, grows = self.settings, self.kind.grows
        old, new = before.get(grows, {}), wanted.get(grows, {})
        different = differences(*({k: v for k, v in one.items() if k != grows} for one in (before, wanted)))
        different += [
            f"{grows.removesuffix('s')} {key} {old[key]!r} -> {new[key]!r}"
            for key in new
            if key in old and old[key] != new[key]
        ]
        if different:
            raise other_study(self.path, self.kind, "; ".join(different))
        settings = {**wanted, **({grows: {**old, **new}} if grows else {})}
        if not self._old and settings == before:
            return
        for name, table in self._old.items():
            self.write(name, table)
        self.manifest["settings"] = settings
        self._publish_manifest()
        self._old = {}

    def _publish_manifest(self) -> None:
        publish_json(self.path / self.kind.manifest, self.manifest)


def _new_manifest(kind: Kind, settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "format": f"subspace_lab.{kind.name}",
        "format_version": FORMAT_VERSION,
        "library_version": __version__,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "environment": environment(),
        "settings": settings,
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """In what two sets of settings differ; nested settings are compared one by one, None is the same as absent.

    Returns:
        ``name before -> now`` for each.

    >>> differences({"lr": 1, "config": {"steps": 3}}, {"lr": 1, "config": {"steps": 4}})
    ['steps 3 -> 4']
    """
    found = []
    for name in dict.fromkeys([*now, *before]):
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new)
        elif old != new:
            found.append(f"{name} {old} -> {new}")
    return found


def other_study(path: Path, kind: Kind, difference: str) -> RunError:
    """The error for a directory that holds a study with other settings."""
    article, _, what = kind.holds.rpartition(" ")
    other = f"another {what}" if article == "a" else f"{kind.holds} of another profile"
    return RunError(f"{path} holds {other} ({difference}); choose another directory for this one")


def _matched(factors: Mapping[str, Any]) -> Key:
    return ("format 1", *_values(factors, _MATCHED))


def _values(factors: Mapping[str, Any], names: Iterable[str]) -> list[Any]:
    """The values of some factors; one that is missing in a table is None, as in a trial."""
    return [None if pd.isna(value := factors.get(name)) else value for name in names]
