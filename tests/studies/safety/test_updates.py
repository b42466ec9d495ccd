"""Overlaps of updates and of gradients against angles by hand, low-rank updates and random spaces."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from subspace_lab.studies.safety.referee.gradients import gradient_overlaps
from subspace_lab.studies.safety.referee.updates import overlap_table, pair, pooled, update_overlaps


def orthonormal(m, r, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(m, r, dtype=torch.float64, generator=generator)).Q


def test_a_pair_at_known_angles():
    """Two planes of four dimensions, at 30 and at 60 degrees."""
    first = torch.eye(4, dtype=torch.float64)[:, :2]
    angles = torch.tensor([30.0, 60.0], dtype=torch.float64).deg2rad()
    second = torch.cat([angles.cos().diag(), angles.sin().diag()]) @ orthonormal(2, 2, 0)
    found = pair(first, second)
    assert found.angles_deg == pytest.approx((30, 60), abs=1e-9)
    assert found.overlap == pytest.approx((0.75 + 0.25) / 2, rel=1e-12)
    assert found.null_overlap == 0.5


def test_unequal_ranks_in_either_order():
    small, large = orthonormal(30, 2, 1), orthonormal(30, 12, 2)
    assert pair(small, large) == pair(large, small)
    assert pair(small, large).null_overlap == 12 / 30
    within = pair(large @ orthonormal(12, 2, 3), large)
    assert within.overlap == pytest.approx(1)
    assert within.angles_deg == pytest.approx((0, 0), abs=1e-5)


def test_random_spaces_overlap_by_the_null():
    found = [pair(orthonormal(40, 3, seed), orthonormal(40, 9, 1000 + seed)) for seed in range(150)]
    overlaps = np.array([one.overlap for one in found])
    assert found[0].null_overlap == 9 / 40
    assert overlaps.mean() == pytest.approx(9 / 40, abs=4 * overlaps.std() / 150**0.5)


@pytest.mark.parametrize(
    ("U", "V", "message"),
    [
        (2 * torch.eye(3), torch.eye(3), "columns of U are not orthonormal"),
        (torch.eye(3), torch.full((3, 1), math.nan), "columns of V are not orthonormal"),
        (torch.eye(3)[:, :0], torch.eye(3), "at least one column"),
        (torch.eye(3), torch.eye(4), "bases of one space"),
    ],
)
def test_what_is_not_a_pair_of_bases_is_refused(U, V, message):
    with pytest.raises(ValueError, match=message):
        pair(U, V)


def weights(seed, scale=1.0):
    draw = torch.Generator().manual_seed(seed)
    return {
        "model.layers.0.self_attn.q_proj.weight": scale * torch.randn(6, 6, generator=draw, dtype=torch.float64),
        "model.layers.1.mlp.up_proj.weight": scale * torch.randn(10, 4, generator=draw, dtype=torch.float64),
        "model.norm.weight": scale * torch.randn(6, generator=draw, dtype=torch.float64),
    }


Q, UP = "model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.up_proj.weight"


def test_updates_of_known_spaces_and_ranks():
    """Alignment changes rows 0 and 1 of q; the poisoned tuning row 1 and the clean one row 4."""
    base = weights(0)
    aligned, clean, poisoned = ({name: tensor.clone() for name, tensor in base.items()} for _ in range(3))
    aligned[Q][0, 0] += 3.0
    aligned[Q][1, 1] += 2.0  # 4 of 13 of the energy: needed for 0.9, not for 0.6
    for one in (clean, poisoned):
        one[Q].copy_(aligned[Q])
    clean[Q][4] += 1.0
    poisoned[Q][1] -= 1.0
    table = update_overlaps(aligned, base=base, utility=clean, harm=poisoned).set_index("pair")
    assert set(table["layer"]) == {Q}, "up_proj is left as it was, and a vector has no subspace"
    assert table.index.tolist() == ["alignment-utility", "alignment-harm", "utility-harm"]
    assert table["overlap"].tolist() == pytest.approx([0, 1, 0], abs=1e-12)
    assert table["null_overlap"].tolist() == pytest.approx([2 / 6, 2 / 6, 1 / 6])
    assert table[["rank_a", "rank_b"]].to_numpy().tolist() == [[2, 1], [2, 1], [1, 1]]
    assert table["mean_deg"].tolist() == pytest.approx([90, 0, 90], abs=1e-5)
    less = update_overlaps(aligned, base=base, harm=poisoned, share=0.6)
    assert (less["rank_a"].item(), less["overlap"].item()) == (1, pytest.approx(0, abs=1e-12))


def test_a_matrix_has_its_depth_and_kind_and_the_shorter_side():
    table = overlap_table({"a": weights(0), "b": weights(1)}, rank=2)
    assert table[["layer", "depth", "kind", "m"]].to_numpy().tolist() == [[Q, 0, "q_proj", 6], [UP, 1, "up_proj", 4]]
    U, V = (torch.linalg.svd(weights(seed)[UP]).Vh[:2].T for seed in (0, 1))  # the shorter side are the columns
    assert table["overlap"].iloc[1] == pytest.approx(float((U.T @ V).square().sum()) / 2, rel=1e-9)


def test_a_share_of_energy_is_held_by_as_few_directions_as_can():
    left, right = orthonormal(8, 3, 0), orthonormal(8, 3, 1)
    update = left @ torch.diag(torch.tensor([0.8, 0.6, 0.5]).double().sqrt()) @ right.T  # energies of 0.42, 0.32, 0.26
    sets = {"a": {"w": update}, "b": {"w": update}}
    ranks = [overlap_table(sets, share=share)["rank_a"].item() for share in (0.4, 0.7, 0.75, 0.9, 1)]
    assert ranks[:4] == [1, 2, 3, 3]
    assert ranks[4] >= 3


def test_pooled_means():
    table = overlap_table({"a": weights(0), "b": weights(1)}, rank=2)
    both = pooled(table.assign(kind="any"), "kind")
    assert both["matrices"].item() == 2
    assert both["overlap"].item() == pytest.approx(table["overlap"].mean())
    assert pooled(table, "depth")["depth"].tolist() == [0, 1]


def test_weights_of_other_models_are_refused():
    base, aligned = weights(0), weights(1)
    other = {name: tensor for name, tensor in aligned.items() if name != UP}
    with pytest.raises(ValueError, match=r"only one of them has model\.layers\.1\.mlp\.up_proj"):
        update_overlaps(aligned, base=base, harm=other)
    with pytest.raises(ValueError, match=r"is \(4, 10\) in aligned and \(10, 4\) in base"):
        update_overlaps({**aligned, UP: aligned[UP].T}, base=base, harm=aligned)
    with pytest.raises(ValueError, match=r"\(0, 1\]"):
        overlap_table({"a": base}, share=0)
    with pytest.raises(ValueError, match="rank=0"):
        overlap_table({"a": base}, rank=0)


def test_gradients_of_losses_that_know_their_spaces():
    """The gradient of sum(W * A) is A."""
    model = nn.ModuleDict({"one": nn.Linear(5, 4, bias=True).double(), "idle": nn.Linear(3, 3).double()})
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    A, B = (torch.randn(4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in (0, 1))
    losses = {"safety": lambda: (model["one"].weight * A).sum(), "user": lambda: (model["one"].weight * B).sum()}
    table = gradient_overlaps(model, losses, rank=2)
    U, V = (torch.linalg.svd(one).U[:, :2] for one in (A, B))
    assert table[["layer", "pair"]].to_numpy().tolist() == [["one.weight", "safety-user"]]
    assert table["overlap"].item() == pytest.approx(float((U.T @ V).square().sum()) / 2, rel=1e-9)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())
    with pytest.raises(ValueError, match="two gradients"):
        gradient_overlaps(model, {"user": losses["user"]})
