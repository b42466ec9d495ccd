"""The Hessian of the loss at the checkpoints of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from subspace_lab.analysis.arguments import check_positive, check_rank
from subspace_lab.analysis.loss import loss_curvature
from subspace_lab.analysis.loss.blocks import select_blocks
from subspace_lab.landscape.checkpoints import Checkpoints, joined, language_loss, with_place
from subspace_lab.runs import Run

if TYPE_CHECKING:
    import pandas as pd

K, TOL, SEQUENCES = 5, 1e-2, 4
_TRACE_SAMPLES = 8
_MOST_LAYERS = 24


def hessian_of_run(
    run: Run,
    *,
    layers: str | Sequence[str] | None = None,
    k: int = K,
    tol: float = TOL,
    rank: int | None = None,
    sequences: int = SEQUENCES,
    data: str | None = None,
    model: str | None = None,
    tokenizer: str | None = None,
) -> dict[str, pd.DataFrame]:
    """Largest eigenvalues of the loss's Hessian, and where the gradient lies to them, at every checkpoint.

    The whole model is one block, and each of the layers one by itself. The loss is that of the run's evaluation
    sequences, in float32 whatever the run was trained in, in evaluation mode.

    Args:
        run: A run of `subspace_lab.train`; its tables are written when it was opened with ``write=True``.
        layers: Globs on parameter names; by default the captured layers, of the first, the middle and the last block
            only where there are more than 24.
        k: Eigenvalues per block.
        tol: The residual that counts as converged, as a share of the largest eigenvalue.
        rank: Rank of the core of every matrix; by default a quarter of the median m, as in the other analyses.
        sequences: How many of the evaluation sequences, spread evenly; a product costs as much as there are.
        data: Where the run's data are now, when they are not found any more (a path or glob); the hash of their tokens
            must be the run's.
        model: Where its pretrained model is now, likewise.
        tokenizer: Where its tokenizer is now, likewise.

    Returns:
        The tables by name. ``hessian``: step, layer, depth, kind, index, eigenvalue, residual, converged.
        ``hessian_summary``: step, layer, depth, kind, loss, sequences, and the columns of
        `subspace_lab.analysis.LossCurvature.summary`.

    Raises:
        RunError: If the run has no checkpoints, or its data are not what they were.
        ValueError: If an argument is wrong or a pattern matches nothing.
    """
    found = Checkpoints.of(run, data=data, model=model, tokenizer=tokenizer)
    patterns = default_layers(run) if layers is None else layers
    core = check_rank(run, rank)
    for name, value in (("k", k), ("sequences", sequences)):
        check_positive(name, value)
    eigenvalues, summaries = [], []
    for step, module in found.models():
        select_blocks(module, patterns)  # what matches nothing is refused before anything long is begun
        batch = found.batch(sequences, next(module.parameters()).device)
        count = len(batch["input_ids"])
        for block in (None, patterns):
            measured = loss_curvature(
                module, language_loss, batch, block, k, tol, rank=core, trace_samples=_TRACE_SAMPLES
            )
            loss = measured.summary.attrs["loss"]
            summary = measured.summary.assign(loss=loss, sequences=count).astype({
                "loss": "float32",
                "sequences": "int32",
            })
            eigenvalues.append(with_place(measured.eigenvalues, step, run))
            summaries.append(with_place(summary, step, run))
    tables = {"hessian": joined(eigenvalues), "hessian_summary": joined(summaries)}
    for name, table in tables.items():
        run.write_table(name, table)
    return tables


def default_layers(run: Run) -> tuple[str, ...]:
    """The captured layers, of the first, the middle and the last block only where they are many.

    Args:
        run: The run.

    Returns:
        Their names, at least one.
    """
    rows = run.manifest["layers"]
    depths = sorted({row["depth"] for row in rows if row["depth"] >= 0})
    if len(rows) <= _MOST_LAYERS or len(depths) < 4:
        return tuple(row["name"] for row in rows)
    chosen = {depths[0], depths[len(depths) // 2], depths[-1]}
    return tuple(row["name"] for row in rows if row["depth"] in chosen)
