"""The noise of the gradient at the checkpoints of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from subspace_lab.analysis.arguments import check_rank
from subspace_lab.analysis.loss import noise
from subspace_lab.landscape.checkpoints import Checkpoints, joined, language_loss, with_place
from subspace_lab.runs import Run

if TYPE_CHECKING:
    import pandas as pd


def noise_of_run(
    run: Run,
    *,
    layers: str | Sequence[str] | None = None,
    rank: int | None = None,
    data: str | None = None,
    model: str | None = None,
    tokenizer: str | None = None,
) -> dict[str, pd.DataFrame]:
    """Noise and signal of the gradient, of its core and of its bulk, at every checkpoint.

    Of the whole model and of each layer, on the run's evaluation sequences, one at a time; shares are those at the
    batch that the run was trained with.

    Args:
        run: A run of `subspace_lab.train`; its table is written when it was opened with ``write=True``.
        layers: Globs on parameter names; by default all captured layers.
        rank: Rank of the core of every matrix; by default a quarter of the median m, as in the other analyses.
        data: Where the run's data are now, when they are not found any more (a path or glob); the hash of their tokens
            must be the run's.
        model: Where its pretrained model is now, likewise.
        tokenizer: Where its tokenizer is now, likewise.

    Returns:
        The table ``noise``: step, layer, depth, kind, loss, and the columns of `subspace_lab.analysis.noise`.

    Raises:
        RunError: If the run has no checkpoints, or its data are not what they were.
        ValueError: If an argument is wrong, a pattern matches nothing, or there are fewer than six sequences.
    """
    found = Checkpoints.of(run, data=data, model=model, tokenizer=tokenizer)
    config, core = found.config, check_rank(run, rank)
    assert config.batch_size
    assert config.accumulation
    patterns = tuple(row["name"] for row in run.manifest["layers"]) if layers is None else layers
    parts = []
    for step, module in found.models():
        batch = found.batch(len(found.evaluation.tokens), next(module.parameters()).device)
        for block in (None, patterns):
            table = noise(
                module,
                language_loss,
                batch,
                block,
                rank=core,
                batch_size=config.batch_size * config.accumulation,
            )
            whole = table.assign(loss=table.attrs["loss"]).astype({"loss": "float32"})
            parts.append(with_place(whole, step, run))
    tables = {"noise": joined(parts)}
    run.write_table("noise", tables["noise"])
    return tables
