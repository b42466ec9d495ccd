"""Which models the table of subspaces pairs, and where its numbers are from."""

from types import MappingProxyType, SimpleNamespace

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from subspace_lab.numerics import overlap
from subspace_lab.studies.safety.subspaces import SUBSPACES, subspace_table

LAYER = "model.layers.0.mlp.up_proj.weight"


def cells_of(root, threats, *, defense="none", seeds=(0,), states=MappingProxyType({})):
    """A study of tunings from one aligned model, with a matrix each, of rank 2 off the aligned one."""
    listed, jobs, parents = [], {}, {}
    for seed in seeds:
        models = {"base": 0.0, "aligned": 0.0, **threats}
        for name, share in models.items():
            whole = f"{name}_{seed}-{len(jobs):012x}"
            draw = torch.Generator().manual_seed(len(jobs))
            weight = torch.randn(6, 2, generator=draw) @ torch.randn(2, 9, generator=draw)
            directory = root / "weights" / whole[-12:]
            directory.mkdir(parents=True)
            save_file({LAYER: weight}, directory / "model.safetensors")
            jobs[whole] = {"hash": f"hash of {name} {seed}"}
            before = f"aligned_{seed}" if name in threats else f"base_{seed}"
            parents[whole] = [other for other in jobs if other.startswith(before) and other != whole]
            if name in threats:
                factors = {"stage": "tuned", "policy": "digits", "task": "sentiment", "draw": 0, "regime": "adamw",
                           "lr": 1e-3, "seed": seed, "defense": defense, "threat": name, "share": share}  # fmt: skip
                listed.append({"factors": factors, "model": whole})
    return SimpleNamespace(
        root=root, trials_dir=root / "cells", cells=listed, jobs=jobs, parents=lambda name: parents[name],
        record=lambda _: SimpleNamespace(status="complete"), state=lambda name: states.get(name, {}),
    )  # fmt: skip


def pairs(table):
    return {(row["hash"], row["clean"]) for row in table.to_dict("records")}


@pytest.mark.parametrize(
    "threats",
    [
        {"clean": 0.0, "poison:share=0.3": 0.3, "trigger:share=0.3": 0.3, "identity:share=0.3": 0.3},
        {"pure": 1.0, "trigger:share=1": 1.0, "clean": 0.0, "poison:share=0.05": 0.05},
    ],
    ids=["of one share", "two of them all poison"],
)
def test_every_threat_with_restricted_rows_is_paired_with_the_clean_tuning_of_its_seed(tmp_path, threats):
    cells = cells_of(tmp_path, threats, seeds=(0, 1))
    poisoned = [name for name in threats if name != "clean" and not name.startswith("identity")]
    assert pairs(subspace_table(cells)) == {
        (f"hash of {name} {seed}", f"hash of clean {seed}") for name in poisoned for seed in (0, 1)
    }


def test_overlaps_are_those_of_the_updates(tmp_path):
    table = subspace_table(cells_of(tmp_path, {"clean": 0.0, "pure": 1.0}))
    base, aligned, clean, pure = (
        load_file(tmp_path / "weights" / f"{place:012x}" / "model.safetensors")[LAYER] for place in range(4)
    )
    V, D_u, D_h = aligned - base, clean - aligned, pure - aligned
    for name, one, other in (
        ("alignment-utility", V, D_u), ("alignment-harm", V, D_h), ("utility-harm", D_u, D_h),
    ):  # fmt: skip
        row = table[table["pair"] == name].iloc[0]
        U, W = (
            torch.linalg.svd(D.double())[0][:, : int(row[rank])] for D, rank in ((one, "rank_a"), (other, "rank_b"))
        )
        assert row["overlap"] == pytest.approx(overlap(U, W), abs=1e-5)
        assert row["null_overlap"] == pytest.approx(max(row["rank_a"], row["rank_b"]) / 6)
    assert set(table["layer"]) == {LAYER}


def test_a_defended_tuning_is_not_paired(tmp_path):
    assert subspace_table(cells_of(tmp_path, {"clean": 0.0, "pure": 1.0}, defense="rehearsal")).empty


def test_rows_are_kept_where_the_weights_are_gone(tmp_path):
    cells = cells_of(tmp_path, {"clean": 0.0, "pure": 1.0})
    table = subspace_table(cells)
    table.to_parquet(tmp_path / "subspaces.parquet")
    (tmp_path / "weights").rename(tmp_path / "elsewhere")
    pd.testing.assert_frame_equal(subspace_table(cells), table)
    assert list(table.columns) == [*SUBSPACES]


@pytest.mark.parametrize("threats", [{"pure": 1.0, "clean": 0.0}, {"pure": 1.0}], ids=["", "without a clean tuning"])
def test_overlaps_of_gradients_come_from_the_trainings_each_time(tmp_path, threats):
    plain = subspace_table(cells_of(tmp_path / "plain", threats))
    row = {"step": 7, "layer": LAYER, "depth": 0, "kind": "up_proj", "pair": "safety-harm", "rank_a": 1, "rank_b": 2,
           "m": 6, "overlap": 0.5, "null_overlap": 2 / 6, "min_deg": 3.0, "mean_deg": 4.0}  # fmt: skip
    cells = cells_of(tmp_path, threats, states={"pure_0-000000000002": {"overlaps": [row]}})
    for _ in range(2):
        table = subspace_table(cells)
        table.to_parquet(tmp_path / "subspaces.parquet")
        found = table[table["step"].notna()].to_dict("records")
        assert found == [{**row, "hash": "hash of pure 0", "clean": ""}]
        assert len(table) == len(plain) + 1
