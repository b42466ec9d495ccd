"""Reading a run directory."""

from __future__ import annotations

import functools
import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, get_args

from torch import Tensor

from subspace_lab._checks import check_choice
from subspace_lab._paths import local_path
from subspace_lab._text import nearest
from subspace_lab.numerics import Side, flatten, gram, packed_shape, unpack_symmetric
from subspace_lab.runs.errors import RunError, RunLostError, in_shell
from subspace_lab.runs.files import confined, remove_partial
from subspace_lab.runs.layer_table import LAYER_COLUMNS, expected_shape
from subspace_lab.runs.manifest import read_manifest
from subspace_lab.runs.metrics import read_metrics, read_numbers
from subspace_lab.runs.snapshot import Snapshot, snapshot_path, steps_in
from subspace_lab.runs.tables import read_table, write_table

if TYPE_CHECKING:
    import pandas as pd


class Run:
    """A run directory, opened by `Run.open`.

    Attributes:
        path: The run directory.
        writable: Whether analyses leave their tables in it.
        manifest: The content of ``manifest.json``.
    """

    def __init__(self, path: Path, manifest: dict[str, Any] | None = None, *, writable: bool = False) -> None:
        if manifest is None:
            raise TypeError(f"a run is opened with Run.open({str(path)!r})")
        self.path = path
        self.manifest = manifest
        self.writable = writable
        self._sound: dict[int, tuple[int, ...]] = {}  # by step, the files whose checksum was compared
        self._layers = {layer["name"]: layer for layer in manifest["layers"]}

    @classmethod
    def open(cls, path: str | Path, write: bool = False) -> Self:
        """Open a run for reading, or for analyses to write their tables into; then leftovers of killed ones go.

        Args:
            path: The run directory.
            write: Whether analyses leave their tables in ``analysis/``.

        Returns:
            The run.

        Raises:
            RunError: If it is not a sound run, or to be written where that is not possible.
        """
        run_dir = local_path(path, error=RunError)
        manifest = read_manifest(run_dir)
        if write and not os.access(run_dir, os.W_OK):
            raise RunError(f"{run_dir} is read-only; copy it to where you may write, or open it without write=True")
        if write:
            remove_partial(run_dir)
        return cls(run_dir, manifest, writable=write)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}: {len(self._layers)} layers, {len(self.steps)} snapshots, keep={self.keep!r})"

    @property
    def keep(self) -> str:
        """The reduction of the gradients: ``full``, ``gram``, ``topk:K`` or ``stats``."""
        return str(self.manifest["capture"]["keep"])

    @property
    def layers(self) -> pd.DataFrame:
        """The layer table: name, depth, kind, rows, cols, side, and shape and residual_side."""
        import pandas as pd

        return pd.DataFrame(self.manifest["layers"], columns=list(LAYER_COLUMNS))

    @functools.cached_property
    def steps(self) -> list[int]:
        """The steps captured until this was first asked, ascending."""
        return steps_in(self.path / "snapshots")

    @functools.cached_property
    def _known_steps(self) -> frozenset[int]:
        return frozenset(self.steps)

    @property
    def metrics(self) -> pd.DataFrame:
        """``metrics.jsonl`` as a table, one row per step."""
        import pandas as pd

        rows = read_metrics(self.path / "metrics.jsonl")
        return pd.DataFrame(rows) if rows else pd.DataFrame({"step": pd.Series(dtype="int64")})

    def curves(self, *names: str) -> pd.DataFrame:
        """Metrics as numbers, for what computes with them or draws them.

        Args:
            *names: Names of metrics, for example ``"loss"``.

        Returns:
            The columns ``step`` and the names, float64, one row per step; NaN where a step has no such metric.

        Raises:
            RunError: If a value is not a number; the message names file, step and metric.
        """
        import pandas as pd

        rows = read_numbers(self.path / "metrics.jsonl", names)
        return pd.DataFrame(rows, columns=["step", *names]).astype("float64")

    def snapshot(self, step: int) -> Snapshot:
        """The snapshot of a step, to be used in a ``with`` block.

        Args:
            step: A captured step.

        Returns:
            The open snapshot; its ``context`` has what was recorded beside the gradients.

        Raises:
            RunError: If the step was not captured, or the file is torn, of another step or outside of the run.
        """
        if not (isinstance(step, Hashable) and step in self._known_steps):
            known = f"captured are {_span(self.steps)}" if self.steps else "nothing was captured yet"
            raise RunError(f"{self.path} has no snapshot of step {step!r}; {known}")
        step = int(step)  # a row of a table may have made it 10.0
        path = snapshot_path(self.path, step)
        snapshot = Snapshot(confined(self.path, path))
        if (found := snapshot.context["step"]) != step:
            raise RunError(f"{path} is the snapshot of step {found}; rename it, or delete it to go on without it")
        return snapshot

    def _verified(self, step: int) -> Snapshot:
        """A snapshot whose checksum was compared, once as long as the file stays what it is."""
        snapshot = self.snapshot(step)
        status = snapshot.path.stat()
        seen = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
        if self._sound.get(step) != seen:
            snapshot.verify()
            self._sound[step] = seen
        return snapshot

    def gradient(self, step: int, layer: str) -> Tensor:
        """A gradient in its parameter's own shape; of runs that keep ``full`` only.

        Args:
            step: A captured step.
            layer: A layer's name.

        Returns:
            The gradient, in the dtype it was captured in.

        Raises:
            RunError: If it is not there: another reduction, an unknown step or layer, a non-finite gradient.
        """
        row = self.layer(layer)
        with self._verified(step) as snapshot:
            gradient = snapshot.get("gradient", layer)
            if gradient is None:
                raise self.absent(snapshot, layer, "the gradient", "keep='full'")
        return self.checked(gradient, tuple(row["shape"]), int(step), layer)

    def gram(self, step: int, layer: str, side: Side | None = None) -> Tensor:
        """The Gram matrix (m, m) of an oriented gradient; of runs that keep ``full`` or ``gram``.

        Args:
            step: A captured step.
            layer: A layer's name.
            side: The side of the basis; None for the layer's own.

        Returns:
            ``G G^T`` of the oriented gradient, float32 (float64 for float64 gradients).

        Raises:
            RunError: If it cannot be had: another reduction, the longer side of a layer of which only the Gram
                was kept, an unknown step or layer, a non-finite gradient.
            ValueError: If there is no such side.
        """
        own = self.layer(layer)["side"]
        side = side or own
        check_choice("side", side, get_args(Side), otherwise=", or None")
        remedy = "keep='gram' or keep='full'" if side == own else "keep='full'"
        with self._verified(step) as snapshot:
            C = self.gram_of(snapshot, layer, side)
            if C is None:
                raise self.absent(snapshot, layer, f"the {side} Gram matrix", remedy)
        return C

    def gram_of(self, snapshot: Snapshot, layer: str, side: Side | None = None) -> Tensor | None:
        """`gram` from an open snapshot, or None where it does not hold it.

        Args:
            snapshot: From `snapshot`.
            layer: A layer's name.
            side: The side of the basis; None for the layer's own.

        Returns:
            The Gram matrix (m, m) or None.
        """
        row = self.layer(layer)
        side = side or row["side"]
        m = row["rows"] if side == "left" else row["cols"]
        step = int(snapshot.context["step"])
        if (packed := snapshot.get(f"gram_{side}", layer)) is not None:
            return unpack_symmetric(self.checked(packed, packed_shape(m), step, layer))
        if (gradient := snapshot.get("gradient", layer)) is not None:
            return gram(flatten(self.checked(gradient, tuple(row["shape"]), step, layer)), side)
        return None

    def layer(self, name: str) -> dict[str, Any]:
        """The row of the layer table.

        Args:
            name: A layer's name.

        Returns:
            The row as a dictionary.

        Raises:
            RunError: If there is no such layer.
        """
        if not isinstance(name, str) or name not in self._layers:
            near = nearest(str(name), self._layers) or "none, it has no layers"
            raise RunError(f"{self.path} has no layer {name!r}; nearest: {near}")
        row: dict[str, Any] = self._layers[name]
        return row

    def checked(self, tensor: Tensor, shape: tuple[int, ...], step: int, layer: str) -> Tensor:
        """The tensor, if its shape is that of the layer table and its entries are finite numbers.

        Args:
            tensor: From a snapshot.
            shape: The expected shape.
            step: Where it comes from, for the message.
            layer: Where it comes from, for the message.

        Returns:
            The tensor as it is.

        Raises:
            RunError: If the snapshot does not belong to this run.
        """
        where = f"{snapshot_path(self.path, step)}: {layer}"
        if tuple(tensor.shape) != shape:
            raise RunError(_other_model(where, tuple(tensor.shape), shape))
        if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
            raise RunError(f"{where} holds something else than finite numbers; delete the file to go on without it")
        return tensor

    def absent(self, snapshot: Snapshot, layer: str, what: str, remedy: str) -> RunError:
        """The error that says why a snapshot does not hold something."""
        where = f"step {snapshot.context['step']}, {layer}"
        if (count := snapshot.context.get("nonfinite", {}).get(layer)) is not None:
            return RunError(f"{self.path}, {where}: the gradient had {count} non-finite entries and was not kept")
        if layer in snapshot.context.get("missing", ()):
            return RunError(f"{self.path}, {where}: the layer had no gradient in this step")
        return RunError(f"{self.path}, {where}: {what} is not kept by keep={self.keep!r}; capture with {remedy}")

    def table(self, name: str, columns: Mapping[str, str] | None = None) -> pd.DataFrame:
        """A table that an analysis left in ``analysis/``.

        Args:
            name: The analysis, for example ``"energy"``.
            columns: Columns that it must have, with their kinds; see `subspace_lab.runs.tables`.

        Returns:
            The table.

        Raises:
            RunError: If there is none, or it cannot be read, was altered, or lacks a column.
        """
        path = confined(self.path, self._table_path(name))
        if not path.is_file():
            unsaved = "" if self.writable else ", or open it with write=True, which keeps what analyses find"
            raise RunError(
                f"{self.path} has no table {name!r} yet; run: subspace-lab analyze {in_shell(self.path)}{unsaved}"
            )
        return read_table(path, f"run again: subspace-lab analyze {in_shell(self.path)}", columns)

    def has_table(self, name: str) -> bool:
        """Whether there is something in the place of a table."""
        return os.path.lexists(self._table_path(name))

    def write_table(self, name: str, table: pd.DataFrame) -> None:
        """Leave a table in ``analysis/``; does nothing when the run was opened for reading.

        Args:
            name: The analysis.
            table: A tidy table.

        Raises:
            RunLostError: If another run is in the place of the one that was opened.
        """
        if self.writable:
            if read_manifest(self.path).get("run_id") != self.manifest.get("run_id"):
                raise RunLostError(f"{self.path} is another run than the one that was opened; open it again")
            write_table(self._table_path(name), table, within=self.path)

    def _table_path(self, name: str) -> Path:
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"a table's name is one word such as 'energy', got {name!r}")
        return self.path / "analysis" / f"{name}.parquet"

    def verify(self) -> int:
        """Check every snapshot against its checksum, and the shapes in it against the layer table.

        Returns:
            The number of snapshots, all of them sound.

        Raises:
            RunError: Naming the first that is torn, altered or of another model.
        """
        directory = self.path / "snapshots"
        if directory.exists() and not directory.is_dir():
            raise RunError(f"{directory} is not a directory; move it away, or restore the snapshots")
        for step in self.steps:
            with self.snapshot(step) as snapshot:
                snapshot.verify()
                for (part, layer), shape in snapshot.shapes().items():
                    expected = expected_shape(self.layer(layer), part, shape)
                    if shape != expected:
                        raise RunError(_other_model(f"{snapshot.path}: {part} of {layer}", shape, expected))
        return len(self.steps)


def _other_model(where: str, shape: tuple[int, ...], expected: tuple[int, ...] | None) -> str:
    says = f"the manifest says {expected or 'nothing of it'}"
    return f"{where} has shape {shape}, {says}; the snapshot is of another model: delete it"


def _span(steps: list[int]) -> str:
    return f"{len(steps)} steps from {steps[0]} to {steps[-1]}"


def check_run(run: Run) -> None:
    """Refuse what is not an opened run, above all its path.

    Args:
        run: What a function was given.

    Raises:
        TypeError: If it is something else; the message says how to open a run.
    """
    if not isinstance(run, Run):
        path = repr(str(run)) if isinstance(run, str | os.PathLike) else "path"
        raise TypeError(f"a run is needed, got {run!r}; open one first: subspace_lab.Run.open({path})")
