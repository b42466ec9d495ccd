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

from subspace_lab._checks import is_whole
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
_SOUND = ("environment", "settings")
ADVICE = "restore it from a copy, or remove it, and the same command makes it again"
_PENDING = {"status": "pending", "reason": "", "attempts": 0, "steps_done": 0}
_EMPTIED = ("tokens", "train_loss", "wall_s", "step_s", "refresh_s", "refresh_share")
_CARRIED = ("method", "lr", "seed")  # factors that stand in the curves too
_MATCHED = ("method", "preset", "steps", "lr", "lr_rest", "seed", "captured")  # factors that a format 1 row is known by


@dataclass(frozen=True)
class Old:
    """What a directory of format 1 holds, in the terms of format 2.

    Attributes:
        settings: The identity of the study.
        results: Its rows, with ``format`` 1 and an empty ``trial``; None where no trial was complete yet.
        curves: Likewise.
        tables: Further tables whose columns changed.
        files: Removed when the directory is written in format 2.
    """

    settings: dict[str, Any]
    results: pd.DataFrame | None = None
    curves: pd.DataFrame | None = None
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    files: tuple[str, ...] = ()


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
        points: Largest number of points of a curve; None for every step.
        grows: Names of settings that a later call may add entries to.
        upgrade: Reads a directory of format 1.
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
    points: int | None = None
    grows: tuple[str, ...] = ()
    upgrade: Callable[[Path, dict[str, Any]], Old] | None = None

    @property
    def schemas(self) -> dict[str, dict[str, str]]:
        """Columns of the result table and of the curves."""
        metric = {self.metric.name: "float64"}
        carried = {name: dtype for name, dtype in self.factors.items() if name in _CARRIED}
        return {
            RESULTS: {**KEYS, **self.factors, **MEASURED, **metric, **self.columns},
            CURVES: {**CURVE, **carried, **metric, **dict.fromkeys(self.shares, "float64")},
        }


class Store:
    """The directory of a study, from `Store.open` or `Store.begin`.

    Attributes:
        path: The directory.
        kind: Its layout.
        manifest: The content of its manifest, in format 2.
    """

    def __init__(self, path: Path, kind: Kind, manifest: dict[str, Any], old: Old | None = None) -> None:
        self.path, self.kind, self.manifest, self._old = path, kind, manifest, old
        self._tables: dict[str, pd.DataFrame] = {}
        if old is not None:
            given = {RESULTS: old.results, CURVES: old.curves, **old.tables}
            self._tables = {name: table for name, table in given.items() if table is not None}

    @classmethod
    def open(cls, path: Path, kind: Kind) -> Self:
        """Open the directory of a study for reading; one of format 1 is read as one of format 2.

        Args:
            path: An existing directory.
            kind: The layout that is expected.

        Returns:
            The store.

        Raises:
            RunError: If the directory holds no such study, or its manifest cannot be read.
        """
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
            old = kind.upgrade(path, manifest)
            manifest = {**_of_format_2(kind, old.settings), **{k: manifest[k] for k in _KEPT if k in manifest}}
            return cls(path, kind, manifest, old)
        if not is_whole(version) or version < FORMAT_VERSION:
            raise RunError(f"{file} has format version {version!r}, which is unknown; restore it from a copy")
        if version > FORMAT_VERSION:
            raise RunError(
                f"{file} has format version {version}, this release reads {FORMAT_VERSION}; upgrade subspace_lab"
            )
        for name in _SOUND:
            if not isinstance(manifest.get(name), dict):
                raise RunError(f"{file} has no valid {name!r}; restore it from a copy")
        return cls(path, kind, manifest)

    @classmethod
    def begin(cls, path: Path, kind: Kind, settings: Mapping[str, Any]) -> Self:
        """Create the directory of a study, or continue the one that exists.

        Args:
            path: New, empty, or that of a study of the same kind and settings.
            kind: Its layout.
            settings: JSON-ready identity of the study.

        Returns:
            The store, written in format 2.

        Raises:
            RunError: If the directory holds something else, or other settings; the message names the difference.
        """
        wanted = json.loads(json.dumps(settings))
        if (path / kind.manifest).exists():
            store = cls.open(path, kind)
            store._join(wanted)
        else:
            check_free(path, kind)
            store = cls(path, kind, _of_format_2(kind, wanted))
            publish_json(path / kind.manifest, store.manifest)
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
        found: dict[str, Any] = self.manifest["settings"]
        return found

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

    def data_hash(self, find: Callable[[], str]) -> str:
        """The recorded hash of the data that the trials read; if there is none, that which `find` gives is recorded."""
        if not isinstance(self.manifest.get("data_hash"), str):
            self.manifest["data_hash"] = find()
            publish_json(self.path / self.kind.manifest, self.manifest)
        found: str = self.manifest["data_hash"]
        return found

    def check_data(self, found: str) -> None:
        """Refuse to mix trials that read different data.

        Raises:
            RunError: If the tables are of data with another hash than `found`.
        """
        before = self.manifest.get("data_hash", found)
        if before != found:
            raise RunError(
                f"{self.path} rests on other data (hash {str(before)[:12]}, here {found[:12]}; a file was changed, "
                "or the standard library is that of another Python); go on where they are the same, or choose another "
                "directory"
            )

    def rows_of(self, trials: Sequence[Trial]) -> pd.DataFrame:
        """The rows that the result table has of some trials: by content, or rows of format 1 with the same factors."""
        places = [place for place in map(self._place, trials) if place is not None]
        return self.results.iloc[list(dict.fromkeys(places))]

    def missing(self, trials: Sequence[Trial], *, retry: Collection[str] = ()) -> list[Trial]:
        """Those of some trials that have to be run, each once.

        Args:
            trials: The trials.
            retry: Statuses that count as missing, of ``diverged`` and ``failed``; pending, cut and killed always do.

        Returns:
            Trials in their order.
        """
        done = {"complete", "diverged", "failed"} - set(retry)
        rows, drawn, left = _records(self.results), set(self.curves["cell"]), {}
        for trial in trials:
            place = self._place(trial)
            row = {} if place is None else rows[place]
            if row.get("status") not in done or (row["steps_done"] and row["cell"] not in drawn):
                left[trial.hash] = trial
        return [*left.values()]

    def cell_of(self, trial: Trial) -> str:
        """The directory of a trial: that of its row, since a row of format 1 has an older name."""
        place = self._place(trial)
        return trial.name if place is None else str(self.results["cell"].iloc[place])

    def enroll(self, trials: Sequence[Trial]) -> None:
        """Add rows for trials that the result table lacks: pending until `refresh`, or equal to a twin's."""
        self._promote(trials)
        new = [trial for trial in trials if self._place(trial) is None]
        if not new:
            return
        table, rows = self.results, []
        twins = {row["trial"]: row for row in _records(table)}  # the same by another name
        seen: set[tuple[Any, ...]] = set()
        for trial in new:
            if (key := self._key(trial.hash, trial.factors)) in seen:
                continue
            seen.add(key)
            twin = twins.get(trial.hash)
            cell = trial.name if twin is None else twin["cell"]
            measured = _PENDING if twin is None else twin
            factors = {name: trial.factors.get(name) for name in self.kind.factors}
            about = {"trial": trial.hash, "cell": cell, "format": FORMAT_VERSION, **self.kind.describe(trial)}
            rows.append({**measured, **factors, **about})
            twins.setdefault(trial.hash, rows[-1])
        self.write(RESULTS, self._joined(table, rows))
        self._refresh_curves(row["cell"] for row in rows if row["status"] != "pending")

    def _promote(self, trials: Sequence[Trial]) -> None:
        """Note which trials that were run to tune are the evaluation, too."""
        table = self.results
        if table.empty or "phase" not in table:
            return
        evaluated = {self._place(trial) for trial in trials if trial.factors.get("phase") == "evaluate"}
        places = [one for one in evaluated if one is not None and table["phase"].iloc[one] == "tune"]
        if places:
            phase = table["phase"].copy()
            phase.iloc[places] = "evaluate"
            self.write(RESULTS, table.assign(phase=phase))

    def refresh(self, absorb: Callable[[pd.DataFrame], None] = lambda _: None) -> None:
        """Read what trials have left in their directories into the tables.

        Args:
            absorb: Called with the new rows of trials that have become complete, before these rows are published; it
                makes further tables from their directories.

        Raises:
            RunError: If the metrics of a trial cannot be read.
        """
        drawn = set(self.curves["cell"])
        before = {row["cell"]: row["status"] for row in _records(self.results) if self._differs(row, drawn)}
        if not before:
            return
        changed = {cell: measured_row(self.trials_dir, cell, self.kind.metric) for cell in before}
        empty = dict.fromkeys([*_EMPTIED, self.kind.metric.name])  # nothing is left of an earlier attempt
        rows = [{**row, **empty, **changed[row["cell"]]} if row["cell"] in changed else row
                for row in _records(self.results)]  # fmt: skip
        now = self._joined(self.results.iloc[:0], rows)
        complete = [cell for cell, row in changed.items() if row["status"] == "complete" != before[cell]]
        absorb(now[now["cell"].isin(complete)])
        self._refresh_curves(changed)
        self.write(RESULTS, now)  # last: where a row is complete, everything of the trial is there

    def forget(self, trials: Sequence[Trial]) -> None:
        """Remove everything that is known of some trials, including their directories."""
        gone = set(self.rows_of(trials)["cell"])
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
        """A table, not to be changed; an empty one where the file does not exist.

        Args:
            name: ``results``, ``curves``, or the name of a derived table.
            columns: The kinds of its columns; those of results and curves are known.

        Returns:
            The table.

        Raises:
            RunError: If it cannot be read, was altered, or has other columns than such a table.
        """
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

    def _place(self, trial: Trial) -> int | None:
        """Where the row of a trial is in the result table."""
        index = self._index()
        return index.get(self._key(trial.hash, trial.factors), index.get(_matched(trial.factors)))

    def _key(self, trial_hash: str, factors: Mapping[str, Any]) -> tuple[Any, ...]:
        """What distinguishes rows: the content, and what it is called; the phase does not."""
        return (trial_hash, *_values(factors, (name for name in self.kind.factors if name != "phase")))

    def _index(self) -> dict[tuple[Any, ...], int]:
        table = self.results
        if getattr(self, "_indexed", None) is not table:
            self._indexed, self._places = table, {}
            for place, row in enumerate(_records(table)):
                key = self._key(row["trial"], row) if row["trial"] else _matched(row)
                self._places[key] = place
        return self._places

    def _differs(self, row: Mapping[str, Any], drawn: Collection[str]) -> bool:
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

    def _joined(self, table: pd.DataFrame, rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
        columns = self.kind.schemas[RESULTS]
        new = pd.DataFrame(list(rows), columns=[*columns]).astype(columns)
        return new if table.empty else pd.concat([table[[*columns]].astype(columns), new], ignore_index=True)

    def _join(self, wanted: dict[str, Any]) -> None:
        """Check that the existing study has the wanted settings, and write it in format 2."""
        before, grown = self.settings, self.kind.grows
        fixed = [{name: value for name, value in one.items() if name not in grown} for one in (before, wanted)]
        different = differences(*fixed)
        for name in grown:
            old, new = before.get(name, {}), wanted.get(name, {})
            different += [f"{name.removesuffix('s')} {key} {old[key]!r} -> {new[key]!r}"
                          for key in new if key in old and old[key] != new[key]]  # fmt: skip
        if different:
            raise other_study(self.path, self.kind, "; ".join(different))
        settings = {**wanted, **{name: {**before.get(name, {}), **wanted.get(name, {})} for name in grown}}
        old, self._old = self._old, None
        if old is not None:
            for name, table in self._tables.items():
                write_table(self._file(name), table)
        if settings != before or old is not None:
            self.manifest["settings"] = settings
            publish_json(self.path / self.kind.manifest, self.manifest)
        for file in () if old is None else old.files:
            (self.path / file).unlink(missing_ok=True)


_KEPT = ("created", "library_version", "environment", "data_hash")  # of a manifest of format 1


def _of_format_2(kind: Kind, settings: dict[str, Any]) -> dict[str, Any]:
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


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _matched(factors: Mapping[str, Any]) -> tuple[Any, ...]:
    return ("format 1", *_values(factors, _MATCHED))


def _values(factors: Mapping[str, Any], names: Iterable[str]) -> list[Any]:
    """The values of some factors; one that is missing in a table is None, as in a trial."""
    return [None if pd.isna(value := factors.get(name)) else value for name in names]


def check_free(path: Path, kind: Kind) -> None:
    """Refuse a directory that holds something else, or a file; the directory need not exist.

    Raises:
        RunError: If the directory is not free, or cannot be read.
    """
    try:
        if path.exists() and not path.is_dir():
            raise RunError(f"{path} is a file; choose another directory")
        if path.is_dir() and any(not entry.name.startswith(".") for entry in path.iterdir()):
            raise RunError(
                f"{path} is not empty and holds no {kind.holds.removeprefix('a ')}; choose another directory"
            )
    except OSError as error:
        raise RunError(unwritable(path, error)) from error
