"""Writing a run directory: create it, or go on with one."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from subspace_lab._checks import whole_number
from subspace_lab._paths import local_path
from subspace_lab._version import __version__
from subspace_lab.runs.environment import environment
from subspace_lab.runs.errors import RunError, RunLostError
from subspace_lab.runs.files import confined, publish_json, remove_partial, unwritable
from subspace_lab.runs.layer_table import broken_capture, broken_layers
from subspace_lab.runs.lock import lock, unlock
from subspace_lab.runs.manifest import FORMAT, FORMAT_VERSION, MANIFEST, plain, read_manifest
from subspace_lab.runs.metrics import MetricsLog
from subspace_lab.runs.ownership import Ownership
from subspace_lab.runs.snapshot import NUM_STEPS, Snapshot, snapshot_path, write_snapshot


class RunWriter:
    """The writing end of a run directory.

    Before everything that it publishes it looks whether the directory is still its own. Where that was removed, moved
    or replaced, or a later writer of the same process has taken the run over, every method raises `RunLostError` and
    leaves what is there alone.

    Args:
        path: The run directory; created when missing.
        layers: The layer table, one dictionary per layer (name, depth, kind, rows, cols, side, shape, residual_side).
        capture: The capture settings (every, keep, layers).
        about: Further manifest fields, JSON-ready: ``config``, ``seeds``, ``data_hash``, ``evaluation``, ``plan``,
            ``places``.
        resume: Go on with the run that is there; its layers and capture settings must be the same.

    Raises:
        RunError: If there is a run already and ``resume`` is not set, if there is none and it is, if what is there
            was captured otherwise, if another process is writing it, or if the directory cannot be written.
        ValueError: If layers, settings or ``about`` cannot be written as JSON or lack what a run needs.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        layers: Sequence[Mapping[str, Any]],
        capture: Mapping[str, Any],
        about: Mapping[str, Any] | None = None,
        resume: bool = False,
    ) -> None:
        self.path = local_path(path, error=RunError).absolute()  # a training may change its directory
        self._metrics: MetricsLog | None = None
        self._closed = False
        asked = plain("layer table and capture settings", {"layers": list(map(dict, layers)), "capture": dict(capture)})
        new = _new_manifest(asked, plain("about", about or {}))
        self.manifest = self._earlier(asked) if resume else self._none_before(new)
        self._lock = lock(self.path)
        try:  # once more, since another process may have come first
            self.manifest = self._earlier(asked) if resume else self._none_before(new)
            remove_partial(self.path)
            self._begin()
            self._own = Ownership(self.path)
        except BaseException:
            unlock(self._lock)
            raise

    def _earlier(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        manifest = read_manifest(self.path)
        _check_same(self.path, manifest, asked)
        return manifest

    def _none_before(self, new: dict[str, Any]) -> dict[str, Any]:
        refuse_existing(self.path)
        return new

    def start_at(self, step: int) -> None:
        """Begin (or begin again) at a step: metrics lines of this step and later ones are cut off.

        Args:
            step: The first step that will be written.
        """
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None
        with self._owned():
            self._metrics = MetricsLog(self.path / "metrics.jsonl", before=step)

    def log(self, row: Mapping[str, Any]) -> None:
        """Append a line to ``metrics.jsonl``.

        Args:
            row: JSON-ready values, ``step`` among them.
        """
        if self._metrics is None:
            self.start_at(int(row["step"]))
        assert self._metrics is not None
        with self._owned():
            self._metrics.append(row)

    def snapshot(self, step: int, tensors: Mapping[str, Tensor], context: Mapping[str, Any]) -> None:
        """Publish the snapshot of a step; one that is there already must be identical and is left as it is.

        Args:
            step: Optimizer steps taken before.
            tensors: CPU tensors by ``part:layer``.
            context: JSON-ready metadata.

        Raises:
            RunError: If it cannot be written, or differs from the one that is there.
            RunLostError: If the run directory is no longer this writer's.
            ValueError: If the step cannot be one, or the context cannot be written as JSON.
        """
        step = whole_number("a step", step, 0, NUM_STEPS)
        path = snapshot_path(self.path, step)
        context = plain("snapshot context", {**context, "step": step})
        with self._owned():
            if not path.exists():
                write_snapshot(path, tensors, context, within=self.path)
                return
            with Snapshot(confined(self.path, path)) as before:
                difference = before.difference(tensors, context)
        if difference:
            raise RunError(
                f"{path} differs from the snapshot taken now in {difference}: the resumed run does not repeat the "
                f"first one; delete the snapshots from step {step} on to replace them"
            )

    def close(self, *, finished: bool = True) -> None:
        """Close the files and record whether the run came to its end.

        Args:
            finished: False for a run that was interrupted and may be resumed.
        """
        if self._closed:
            return
        if self._metrics is not None:
            self._metrics.close()
        try:
            self._set_finished(finished=finished)
            self._closed = True
        finally:
            unlock(self._lock)

    def _begin(self) -> None:
        if self.manifest.get("finished") is not False or "run_id" not in self.manifest:
            begun = {"run_id": uuid.uuid4().hex, **self.manifest, "finished": False}  # earlier releases gave no id
            publish_json(self.path / MANIFEST, begun, within=self.path)
            self.manifest = begun

    def _set_finished(self, *, finished: bool) -> None:
        with self._owned():
            if self.manifest.get("finished") != finished:
                publish_json(self.path / MANIFEST, {**self.manifest, "finished": finished}, within=self.path)
                self.manifest["finished"] = finished

    @contextmanager
    def _owned(self) -> Iterator[None]:
        """Whether the directory is still this writer's, asked before, and again where something failed."""
        self._own.check()
        if not self._lock.is_held:
            raise RunLostError(f"{self.path} was closed, or a later writer of this process took it over; use that one")
        try:
            yield
        except RunError:
            self._own.check()
            raise


def refuse_existing(path: Path) -> None:
    """Refuse to write a new run over anything that is there.

    Args:
        path: The directory in which a run is to begin.

    Raises:
        RunError: If it is a run, a file, or a directory with something else in it.
    """
    try:
        if path.is_dir():
            if (path / MANIFEST).exists():
                raise RunError(
                    f"{path} already holds a run; resume it with --resume (resume=True in Python), "
                    "or choose another directory"
                )
            if any(not entry.name.startswith(".") for entry in path.iterdir()):
                raise RunError(f"{path} is not empty and not a run; choose another directory")
        elif path.exists():
            raise RunError(f"{path} is a file; choose another directory")
    except OSError as error:
        raise RunError(unwritable(path, error)) from error


def _new_manifest(asked: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, Any]:
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "library_version": __version__,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "run_id": uuid.uuid4().hex,
        **asked,
        "environment": environment(),
    }
    if taken := {*manifest, "finished"} & about.keys():
        raise ValueError(f"about must not hold {', '.join(sorted(taken))}: the run writes that itself")
    if broken := broken_capture(manifest["capture"]) or broken_layers(manifest["layers"]):
        raise ValueError(f"the run {broken}")
    return {**manifest, **about}


def _check_same(path: Path, manifest: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    differences = list(_changes("", manifest["capture"], asked["capture"]))
    before, now = ({row["name"]: row for row in table["layers"]} for table in (manifest, asked))
    differences += [f"layer {name} is gone" for name in sorted(before.keys() - now.keys())]
    differences += [f"layer {name} is new" for name in sorted(now.keys() - before.keys())]
    for name in sorted(before.keys() & now.keys()):
        differences += _changes(f"{name} ", before[name], now[name])
    if differences:
        more = f"; and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise RunError(
            f"{path} was captured otherwise ({'; '.join(differences[:3])}{more}); resume with the same settings"
        )


def _changes(of: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            yield f"{of}{key} {before.get(key)!r} -> {now.get(key)!r}"
