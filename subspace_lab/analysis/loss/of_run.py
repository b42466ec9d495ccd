"""The loss at the checkpoints of a run: its Hessian, and the noise of its gradient."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from subspace_lab._checks import whole_number
from subspace_lab.analysis.loss.batches import num_examples
from subspace_lab.analysis.loss.blocks import select_blocks
from subspace_lab.analysis.loss.hessian import loss_curvature
from subspace_lab.analysis.loss.noise import noise
from subspace_lab.analysis.ranks import check_rank
from subspace_lab.runs import Run
from subspace_lab.runs.run import check_run

if TYPE_CHECKING:
    import pandas as pd

K, TOL, SEQUENCES = 5, 1e-2, 4
_TRACE_SAMPLES = 8
_MOST_LAYERS = 24


class Checkpoints(Protocol):
    """The models of a run at its checkpoints, and what their loss is measured on.

    `subspace_lab.training.RestoredCheckpoints` restores those of a run of `subspace_lab.train`.
    """

    @property
    def batch_size(self) -> int:
        """Examples in a step of the optimizer."""

    def models(self) -> Iterator[tuple[int, nn.Module]]:
        """Step and model of every checkpoint, in evaluation mode; the model may be one object with new weights."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The mean loss of a batch, a scalar."""

    def probe(self, count: int, device: torch.device) -> Any:
        """A batch of `count` examples, the same ones every time; all of them where there are fewer."""


def hessian_of_run(
    run: Run,
    checkpoints: Checkpoints,
    *,
    layers: str | Sequence[str] | None = None,
    k: int = K,
    tol: float = TOL,
    rank: int | None = None,
    sequences: int = SEQUENCES,
) -> dict[str, pd.DataFrame]:
    """Largest eigenvalues of the loss's Hessian, and how the gradient lies to them, at every checkpoint.

    The whole model is one block, and each of the layers is one by itself. The loss is that of the run's evaluation
    sequences, in float32 whatever the run was trained in, in evaluation mode.

    Args:
        run: A run; its tables are written when it was opened with ``write=True``.
        checkpoints: Its restored checkpoints.
        layers: Globs on parameter names; by default the captured layers, of the first, the middle and the last block
            only where there are more than 24.
        k: Eigenvalues per block.
        tol: The residual that counts as converged, as a share of the largest eigenvalue.
        rank: Rank of the core of every matrix; by default a quarter of the median m, as in the other analyses.
        sequences: How many of the evaluation sequences, spread evenly; a product costs as much as there are.

    Returns:
        The tables by name. ``hessian``: step, layer, depth, kind, index, eigenvalue, residual, converged.
        ``hessian_summary``: step, layer, depth, kind, loss, sequences, and the columns of
        `subspace_lab.analysis.LossCurvature.summary`.

    Raises:
        RunError: If a checkpoint cannot be read.
        ValueError: If an argument is wrong or a pattern matches nothing.
    """
    check_run(run)
    patterns = default_layers(run) if layers is None else layers
    core = check_rank(run, rank)
    for name, value in (("k", k), ("sequences", sequences)):
        whole_number(name, value)
    eigenvalues, summaries = [], []
    for step, module in checkpoints.models():
        select_blocks(module, patterns)  # what matches nothing is refused before anything long is begun
        batch = checkpoints.probe(sequences, next(module.parameters()).device)
        for block in (None, patterns):
            measured = loss_curvature(
                module, checkpoints.loss, batch, block, k, tol, rank=core, trace_samples=_TRACE_SAMPLES
            )
            loss = measured.summary.attrs["loss"]
            summary = measured.summary.assign(loss=loss, sequences=num_examples(batch)).astype({
                "loss": "float32",
                "sequences": "int32",
            })
            eigenvalues.append(_with_place(measured.eigenvalues, step, run))
            summaries.append(_with_place(summary, step, run))
    tables = {"hessian": _joined(eigenvalues), "hessian_summary": _joined(summaries)}
    for name, table in tables.items():
        run.write_table(name, table)
    return tables


def noise_of_run(
    run: Run,
    checkpoints: Checkpoints,
    *,
    layers: str | Sequence[str] | None = None,
    rank: int | None = None,
) -> dict[str, pd.DataFrame]:
    """Noise and signal of the gradient, of its core and of its bulk, at every checkpoint.

    Of the whole model and of each layer, on all evaluation sequences of the run, one at a time; shares are those at the
    batch that the run was trained with.

    Args:
        run: A run; its table is written when it was opened with ``write=True``.
        checkpoints: Its restored checkpoints.
        layers: Globs on parameter names; by default all captured layers.
        rank: Rank of the core of every matrix; by default a quarter of the median m, as in the other analyses.

    Returns:
        The table ``noise``: step, layer, depth, kind, loss, and the columns of `subspace_lab.analysis.noise`.

    Raises:
        RunError: If a checkpoint cannot be read.
        ValueError: If an argument is wrong, a pattern matches nothing, or there are fewer than six sequences.
    """
    check_run(run)
    core = check_rank(run, rank)
    patterns = tuple(row["name"] for row in run.manifest["layers"]) if layers is None else layers
    parts = []
    for step, module in checkpoints.models():
        batch = checkpoints.probe(sys.maxsize, next(module.parameters()).device)
        for block in (None, patterns):
            table = noise(module, checkpoints.loss, batch, block, rank=core, batch_size=checkpoints.batch_size)
            whole = table.assign(loss=table.attrs["loss"]).astype({"loss": "float32"})
            parts.append(_with_place(whole, step, run))
    tables = {"noise": _joined(parts)}
    run.write_table("noise", tables["noise"])
    return tables


def default_layers(run: Run) -> tuple[str, ...]:
    """The captured layers, of the first, the middle and the last block only where they are many.

    Args:
        run: An opened run.

    Returns:
        Their names, at least one.
    """
    rows = run.manifest["layers"]
    depths = sorted({row["depth"] for row in rows if row["depth"] >= 0})
    if len(rows) <= _MOST_LAYERS or len(depths) < 4:
        return tuple(row["name"] for row in rows)
    chosen = {depths[0], depths[len(depths) // 2], depths[-1]}
    return tuple(row["name"] for row in rows if row["depth"] in chosen)


def _with_place(rows: pd.DataFrame, step: int, run: Run) -> pd.DataFrame:
    """A table of blocks with the step, and with depth and kind from the run's layer table, these columns first."""
    layers = {row["name"]: row for row in run.manifest["layers"]}
    names = rows["layer"].astype(str)
    table = rows.assign(
        step=np.int32(step),
        depth=np.array([layers[name]["depth"] if name in layers else -1 for name in names], np.int16),
        kind=[layers[name]["kind"] if name in layers else name for name in names],
    )
    first = ["step", "layer", "depth", "kind"]
    return table[[*first, *(column for column in rows if column not in first)]]


def _joined(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """Tables below each other, names categorical."""
    import pandas as pd

    for part in parts:
        part.attrs = {}
    table = pd.concat([part.astype({"layer": str}) for part in parts], ignore_index=True)
    for name in ("layer", "kind", "part"):
        if name in table:
            table[name] = pd.Categorical(table[name], categories=list(dict.fromkeys(table[name].astype(str))))
    return table
