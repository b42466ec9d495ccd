"""One pass over a run for any number of measures: every gradient is read and decomposed once.

The work is cut into chains: the same layer of all blocks, in the order of depth, which is what comparisons over depth
need side by side. A chain walks through the snapshots and remembers only the last few bases, so that memory does not
grow with the number of snapshots; chains are independent and may be spread over an executor.
"""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, as_completed
from typing import TYPE_CHECKING, Protocol

import torch

from subspace_lab.analysis.columns import Columns, to_table
from subspace_lab.analysis.layer_step import Layer, LayerStep, Past, load_layer_step
from subspace_lab.analysis.memory_trim import trim_memory
from subspace_lab.analysis.notices import Advance, AnalysisNotice, notices, progress
from subspace_lab.runs import Run, RunError
from subspace_lab.runs.run import check_run

if TYPE_CHECKING:
    import pandas as pd


class Measure(Protocol):
    """A quantity: its table, how much of a layer's past it needs, and its rows for a layer at a step."""

    @property
    def table(self) -> str:
        """Name of the table."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the table, in their order."""

    @property
    def num_vectors(self) -> int:
        """Size of the basis it needs, 0 for none."""

    @property
    def max_lag(self) -> int:
        """How many captures back it looks."""

    @property
    def first_columns(self) -> int:
        """Columns of a layer's first basis that it compares with, 0 for none."""

    @property
    def residual(self) -> bool:
        """Whether it needs bases on the residual side."""

    def add(self, at: LayerStep, columns: Columns) -> None:
        """Add the rows of a layer at a step."""


class _Stop:
    """Whether the chains shall stop; threads share it, another process has a copy that nobody sets."""

    asked = False


def pass_over_snapshots(
    run: Run, measures: Sequence[Measure], executor: Executor | None = None
) -> dict[str, pd.DataFrame]:
    """All measures in one pass; their tables are written when the run was opened for writing.

    Args:
        run: An opened run.
        measures: What to measure.
        executor: Spreads the chains of layers; None works in this thread.

    Returns:
        The tables by name. Rows are grouped by chain of layers, then by step.

    Raises:
        RunError: If the run has no snapshots, or one of them is torn, altered or of another model.
        TypeError: If `run` is not a run, or `executor` is not an executor.
    """
    check_run(run)
    if executor is not None and not hasattr(executor, "submit"):
        raise TypeError(f"executor must be one of concurrent.futures, such as ThreadPoolExecutor(4), got {executor!r}")
    if not run.steps:
        raise RunError(f"{run.path} has no snapshots yet; let the run take at least one step that is captured")
    run.verify()
    for notice in notices(run):
        warnings.warn(notice, AnalysisNotice, stacklevel=3)
    chains = list(_chains(run))
    num_layer_steps = len(run.steps) * sum(map(len, chains))
    with progress(num_layer_steps, ", ".join(measure.table for measure in measures)) as advance:
        if executor is None:
            parts = [_pass_over_chain(run, chain, measures, advance) for chain in chains]
        else:
            parts = _spread(run, chains, measures, advance, executor)
    trim_memory()
    tables = {}
    for index, measure in enumerate(measures):
        tables[measure.table] = to_table((part[index] for part in parts), _categories(run))
        run.write_table(measure.table, tables[measure.table])
    return tables


def _spread(
    run: Run, chains: Sequence[list[Layer]], measures: Sequence[Measure], advance: Advance, executor: Executor
) -> list[list[Columns]]:
    """The chains over an executor; when one fails, or Ctrl-C comes, none is begun any more and threads stop soon."""
    stop = _Stop()
    futures = {executor.submit(_spread_chain, os.getpid(), run, chain, measures, stop): len(chain) for chain in chains}
    try:
        for future in as_completed(futures):
            future.result()
            advance(futures[future] * len(run.steps))
    except BaseException:
        stop.asked = True
        raise
    finally:
        for future in futures:
            future.cancel()
    return [future.result() for future in futures]


def _spread_chain(
    caller: int, run: Run, chain: Sequence[Layer], measures: Sequence[Measure], stop: _Stop
) -> list[Columns]:
    """A chain in a worker. A process takes one thread: it has siblings, and OpenMP's threads do not survive a fork."""
    if os.getpid() != caller:
        torch.set_num_threads(1)
    return _pass_over_chain(run, chain, measures, None, stop)


def _pass_over_chain(
    run: Run,
    chain: Sequence[Layer],
    measures: Sequence[Measure],
    advance: Advance | None = None,
    stop: _Stop | None = None,
) -> list[Columns]:
    categories = _categories(run)
    columns = [Columns(measure.columns, categories) for measure in measures]
    num_vectors = max(measure.num_vectors for measure in measures)
    residual = any(measure.residual for measure in measures)
    max_lag = max(measure.max_lag for measure in measures)
    first_columns = max(measure.first_columns for measure in measures)
    pasts = {layer.name: Past(deque(maxlen=max_lag), first_columns) for layer in chain}
    for step in run.steps:
        with run.snapshot(step) as snapshot:
            neighbour = None
            for layer in chain:
                if stop is not None and stop.asked:
                    return []
                past = pasts[layer.name]
                at = load_layer_step(run, snapshot, layer, num_vectors=num_vectors, residual=residual, past=past)
                if at is not None:
                    at.neighbour = neighbour
                    for measure, rows in zip(measures, columns, strict=True):
                        measure.add(at, rows)
                past.push(None if at is None else at.basis)
                neighbour = _forget(at)
        trim_memory()
        if advance is not None:
            advance(len(chain))
    for rows in columns:
        rows.join()
    return columns


def _forget(at: LayerStep | None) -> LayerStep | None:
    """A neighbour without its own neighbour, so that those of a step do not pile up."""
    if at is not None:
        at.neighbour = None
    return at


def _chains(run: Run) -> Iterator[list[Layer]]:
    """The layers that differ in their block index only, by depth."""
    chains: dict[str, list[Layer]] = {}
    for row in run.manifest["layers"]:
        parts = row["name"].split(".")
        if row["depth"] >= 0 and str(row["depth"]) in parts:
            parts[parts.index(str(row["depth"]))] = "*"
        chains.setdefault(".".join(parts), []).append(Layer.of(row))
    for chain in chains.values():
        yield sorted(chain, key=lambda layer: layer.depth)


def _categories(run: Run) -> dict[str, list[str]]:
    names = [row["name"] for row in run.manifest["layers"]]
    return {
        "layer": names,
        "reference_layer": names,
        "kind": list(dict.fromkeys(row["kind"] for row in run.manifest["layers"])),
        "basis": ["own", "stale"],
        "comparison": ["previous", "first", "depth"],
        "side": ["left", "right"],
    }
