"""What ranks gain by split batches, against the definition written out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from subspace_lab.analysis.budget import state_bytes
from subspace_lab.runs import Run
from subspace_lab.studies.plans.variants import by_split_batches
from subspace_lab.training import RestoredCheckpoints
from tests.training.tiny import run_with_checkpoints

LAYER = "model.layers.0.self_attn.q_proj.weight"
SHAPES = {LAYER: (16, 16), "model.layers.1.mlp.down_proj.weight": (16, 24)}
RANKS = (1, 4, 16)


def test_gains_are_the_signal_in_bases_of_the_other_half(tmp_path: Path) -> None:
    """Of 24 sequences in micro-batches of 4, three in a half; averaged over the checkpoints, never falling by rank."""
    with run_with_checkpoints(tmp_path) as path:
        run = Run.open(path)
        found = by_split_batches(run, RANKS, SHAPES)
        checkpoints = RestoredCheckpoints.of(run)
        shares = []
        for _, model in checkpoints.models():
            batch = checkpoints.probe(24, torch.device("cpu"))
            parts = [{name: rows[i : i + 4] for name, rows in batch.items()} for i in range(0, 24, 4)]
            weight = model.get_parameter(LAYER)
            of_parts = [torch.autograd.grad(checkpoints.loss(model, part), weight)[0].double() for part in parts]
            shares.append([_share(of_parts[::2], of_parts[1::2], rank, checkpoints.batch_size) for rank in RANKS])
    wanted = np.maximum.accumulate(np.mean(shares, axis=0)) * 16 * 16
    choices = found[LAYER]
    assert [choice.gain for choice in choices] == pytest.approx(wanted.tolist(), rel=1e-4)
    assert [choice.rank for choice in choices] == [*RANKS]
    assert [choice.state_bytes for choice in choices] == [state_bytes(16, 16, rank) for rank in RANKS]
    assert wanted[0] < wanted[-1]


def _share(one: list[torch.Tensor], two: list[torch.Tensor], rank: int, batch_size: int) -> float:
    """Signal of the core, by the other half's top space, over the energy of a batch; means over the halves."""
    core, everything, noises = [], [], []
    for mine, others in ((one, two), (two, one)):
        S = torch.linalg.svd(sum(others))[0][:, :rank]
        core.append(_signal([S.T @ g for g in mine])[0])
        signal, noise = _signal(mine)
        everything.append(signal)
        noises.append(noise)
    return float(np.mean(core) / (np.mean(everything) + np.mean(noises) / batch_size))


def _signal(gradients: list[torch.Tensor]) -> tuple[float, float]:
    """Unbiased signal, as the mean product of different micro-batches, and the noise of one example."""
    products = [float((a * b).sum()) for i, a in enumerate(gradients) for b in gradients[i + 1 :]]
    signal = float(np.mean(products))
    return signal, 4 * (float(np.mean([float(g.square().sum()) for g in gradients])) - signal)
