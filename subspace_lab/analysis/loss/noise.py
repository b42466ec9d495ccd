"""How much of a gradient is noise and how much signal, in its core and in its bulk.

Legend: ``g_i`` gradient of micro-batch i of b examples, ``G = E g_i`` the gradient itself; ``P`` projection on the
core, on the bulk, or none; J micro-batches in each of two halves; ``S (m, r)`` basis of the core, from the other
half.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from subspace_lab._checks import whole_number
from subspace_lab.analysis.loss.batches import num_examples
from subspace_lab.analysis.loss.blocks import MODEL, Block, select_blocks
from subspace_lab.analysis.loss.completeness import check_complete
from subspace_lab.analysis.loss.directions import Core, core_of, core_part, matrix_part, usual_rank
from subspace_lab.analysis.loss.operator import Loss, LossOnBatch
from subspace_lab.analysis.loss.refusals import check_model, named_derivatives
from subspace_lab.analysis.loss.to_table import to_table
from subspace_lab.analysis.notices import progress

if TYPE_CHECKING:
    import pandas as pd

PARTS = ("all", "core", "bulk")
_LEAST = 3  # micro-batches per half: the fewest that leave a pair when one is left out


def noise(
    model: nn.Module,
    loss: Loss,
    batch: Any,
    layers: str | Sequence[str] | None = None,
    *,
    rank: int | None = None,
    micro_batch: int = 1,
    batch_size: int | None = None,
) -> pd.DataFrame:
    """Noise and signal of a gradient, of its core and of its bulk, by split batches.

    The batch is cut into micro-batches, every other one into either half. Of independent gradients ``g_i`` of the same
    expectation the energy of the average falls with their number as far as it is noise, and stays as far as it is
    signal (arXiv 1812.06162, with the batch sizes b and J b)::

        signal = ||P G||^2          = (J ||P mean g||^2 - mean ||P g_i||^2) / (J - 1)
        noise  = E ||P (g_i - G)||^2 b = (mean ||P g_i||^2 - signal) b        of one example

    Both are unbiased, since P is that of a basis from the other half: the own top-r space of a gradient fits that
    gradient's noise, and would make core noise look like signal. So the core here is what a basis holds of *other*
    batches than the one that it was made of, which is how an optimizer uses it; results of both halves are averaged.

    Args:
        model: Any model; dropout and batch normalization in evaluation mode.
        loss: ``loss(model, batch)``, a scalar that is a mean over examples.
        batch: Tensors (examples, ...), dicts, lists or tuples of them; an even number of micro-batches, six at least.
        layers: Globs on canonical parameter names, each matching parameter by itself; None for all trainable
            parameters together, named "model". Its core and bulk are those of its matrices.
        rank: Rank of the core of every matrix; by default a quarter of the smaller side (the median one of a block).
        micro_batch: Examples per micro-batch.
        batch_size: Examples of a training batch, for ``snr`` and ``signal_share``; by default those of the batch.

    Returns:
        One row per block and part (all, core, bulk; vectors have no core): layer, part, rank, parameters, count
        (micro-batches), micro_batch, batch_size, mean_energy, energy_of_mean, signal, signal_se, noise, noise_scale
        (noise / signal, in examples: the batch at which they are equal), noise_scale_se, snr (signal / noise at
        ``batch_size``), signal_share (signal / (signal + noise) there), signal_share_se. Standard errors by the
        jackknife, which errs on the large side where micro-batches are few. An estimate of a signal may come out
        negative where there is none; its noise scale is NaN.

    Raises:
        ValueError: If an argument is wrong, a pattern matches nothing, the batch cannot be cut so, or the model or the
            loss do not do.
    """
    blocks = select_blocks(model, layers)
    ranks = None if rank is None else whole_number("rank", rank)
    examples = num_examples(batch)
    size = examples if batch_size is None else whole_number("batch_size", batch_size)
    _check_parts(examples, whole_number("micro_batch", micro_batch))
    check_model(model)
    on_batch = LossOnBatch(model, loss, batch, micro_batch)
    with progress(2 * len(on_batch.parts), "noise") as advance:
        gradients = _Gradients(on_batch, blocks, advance)
        gradients.check()
        halves = _measure(gradients, blocks, ranks)
    rows = [
        _row(block, part, ranks or usual_rank(block), halves[block, part], micro_batch, size)
        for block in blocks
        for part in PARTS
        if (block, part) in halves
    ]
    return to_table(rows, {"loss": on_batch.value, "examples": examples})


def _check_parts(examples: int, micro_batch: int) -> None:
    least = 2 * _LEAST * micro_batch
    if examples < least or examples % (2 * micro_batch):
        raise ValueError(
            f"the batch has {examples} examples; at micro_batch={micro_batch} it takes a multiple of "
            f"{2 * micro_batch}, at least {least}: give such a batch, or another micro_batch"
        )


class _Gradients:
    """The gradients of all blocks, micro-batch by micro-batch."""

    def __init__(self, loss: LossOnBatch, blocks: Sequence[Block], advance: Any) -> None:
        self._loss, self._blocks, self._advance = loss, blocks, advance
        named = {id(p): (name, p) for block in blocks for name, p in zip(block.names, block.parameters, strict=True)}
        names, parameters = zip(*named.values(), strict=True)
        self._joint = Block(blocks[0].name if len(blocks) == 1 else "the layers", names, parameters, -1, MODEL)
        self.count = len(loss.parts)

    def check(self) -> None:
        """Refuse gradients that are not those of the loss; on the first micro-batch.

        Raises:
            ValueError: If differences of the loss show others, or torch has none.
        """
        part = self._loss.parts[0][0]
        with named_derivatives(self._joint, "first"):
            found = self._grad(part)
        dense = [None if g is None else g.to_dense() for g in found]
        check_complete(self._joint, lambda: self._loss.at(part), dense)

    def _grad(self, part: Any) -> tuple[Tensor | None, ...]:
        found: tuple[Tensor | None, ...] = torch.autograd.grad(
            self._loss.at(part), self._joint.parameters, allow_unused=True
        )
        return found

    def of(self, half: int) -> Iterator[dict[Block, Tensor]]:
        """The flat gradients (N,) by block, of every other micro-batch."""
        for part, _ in self._loss.parts[half::2]:
            found = self._grad(part)
            by_id = {id(p): g for p, g in zip(self._joint.parameters, found, strict=True)}
            yield {block: _flat(block, by_id) for block in self._blocks}
            self._advance(1)


def _flat(block: Block, found: Mapping[int, Tensor | None]) -> Tensor:
    parts = [torch.zeros_like(p) if (g := found[id(p)]) is None else g for p in block.parameters]
    flat = torch.cat([part.to_dense().reshape(-1) for part in parts]).to(block.dtype)
    if not bool(flat.isfinite().all()):
        raise ValueError(f"the gradient of {block.name} is not finite at these weights; take others")
    return flat


@dataclass
class _Half:
    """``q_i = ||P g_i||^2`` and ``c_i = <P g_i, P sum_j g_j>`` of the micro-batches of a half."""

    q: list[float] = field(default_factory=list)
    c: list[float] = field(default_factory=list)

    def add(self, v: Tensor, total: Tensor) -> None:
        self.q.append(float(torch.linalg.vector_norm(v, dtype=torch.float64)) ** 2)
        self.c.append(float((v * total).sum(dtype=torch.float64)))


def _measure(
    gradients: _Gradients, blocks: Sequence[Block], rank: int | None
) -> dict[tuple[Block, str], tuple[_Half, _Half]]:
    sums: list[dict[Block, Tensor]] = []
    for half in (0, 1):
        each = gradients.of(half)
        sums.append(next(each))
        for found in each:
            for block in blocks:
                sums[half][block].add_(found[block])
    halves: dict[tuple[Block, str], tuple[_Half, _Half]] = {}
    for half in (0, 1):
        cores = {block: core_of(block, sums[1 - half][block], rank or usual_rank(block)) for block in blocks}
        for found in gradients.of(half):
            for block in blocks:
                for part, v in _parts(block, found[block], cores[block]):
                    halves.setdefault((block, part), (_Half(), _Half()))[half].add(v, sums[half][block])
    return halves


def _parts(block: Block, g: Tensor, core: Core) -> Iterator[tuple[str, Tensor]]:
    yield "all", g
    if core.size:
        inside = core_part(block, g, core)
        yield "core", inside
        yield "bulk", matrix_part(block, g) - inside


@dataclass(frozen=True)
class _Estimate:
    """Signal, noise of one example, and what follows from them, the mean over both halves."""

    signal: float
    noise: float
    scale: float
    share: float

    @classmethod
    def of(cls, pairs: Sequence[tuple[np.ndarray, np.ndarray]], micro_batch: int, batch_size: int) -> _Estimate:
        signal = float(np.mean([(c - q).sum() / (len(q) * (len(q) - 1)) for q, c in pairs]))
        noise = (float(np.mean([q.mean() for q, _ in pairs])) - signal) * micro_batch
        whole = signal + noise / batch_size
        return cls(signal, noise, noise / signal if signal > 0 else np.nan, signal / whole if whole > 0 else np.nan)


def _row(
    block: Block, part: str, rank: int, halves: tuple[_Half, _Half], micro_batch: int, batch_size: int
) -> dict[str, Any]:
    pairs = [(np.array(half.q), np.array(half.c)) for half in halves]
    found = _Estimate.of(pairs, micro_batch, batch_size)
    left_out = [
        [_Estimate.of(_without(pairs, half, i), micro_batch, batch_size) for i in range(len(pairs[half][0]))]
        for half in (0, 1)
    ]
    errors = {
        name: _jackknife([[getattr(estimate, name) for estimate in half] for half in left_out])
        for name in ("signal", "scale", "share")
    }
    count = len(pairs[0][0])
    return {
        "layer": block.name,
        "part": part,
        "rank": rank,
        "parameters": block.size,
        "count": 2 * count,
        "micro_batch": micro_batch,
        "batch_size": batch_size,
        "mean_energy": np.mean([q.mean() for q, _ in pairs]),
        "energy_of_mean": np.mean([c.sum() / count**2 for _, c in pairs]),
        "signal": found.signal,
        "signal_se": errors["signal"],
        "noise": found.noise,
        "noise_scale": found.scale,
        "noise_scale_se": errors["scale"] if found.signal > 0 else np.nan,
        "snr": found.signal * batch_size / found.noise if found.noise > 0 else np.nan,
        "signal_share": found.share,
        "signal_share_se": errors["share"],
    }


def _without(pairs: Sequence[tuple[np.ndarray, np.ndarray]], half: int, i: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The pairs with micro-batch i of a half left out; the sums of that half change with it."""
    left = list(pairs)
    q, c = pairs[half]
    inner = _inner_products_lost(q, c, i)
    left[half] = np.delete(q, i), np.delete(c, i) - inner
    return left


def _inner_products_lost(q: np.ndarray, c: np.ndarray, i: int) -> np.ndarray:
    """What each ``c_j`` loses without micro-batch i, in sum ``<P g_i, P sum g> - q_i``, spread evenly."""
    others = len(q) - 1
    return np.full(others, (c[i] - q[i]) / others)


def _jackknife(left_out: Sequence[Sequence[float]]) -> float:
    """The standard error from estimates with one observation left out, in strata."""
    parts = [np.array(values) for values in left_out]
    return float(np.sqrt(sum((len(v) - 1) / len(v) * ((v - v.mean()) ** 2).sum() for v in parts)))
