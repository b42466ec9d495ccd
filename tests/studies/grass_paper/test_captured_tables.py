"""What is measured of captured runs, on runs with known gradients."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from subspace_lab.studies.grass_paper import captured_tables
from subspace_lab.studies.grass_paper.profiles import PROFILES
from tests.runs_by_hand import noise, write_run
from tests.studies.grass_paper.by_hand import Tables, records, table

OF_A_RUN = {f"blocks.{depth}.up.weight": (16, 40) for depth in range(3)} | {
    "blocks.0.down.weight": (48, 12), "blocks.1.down.weight": (24, 24),
}  # fmt: skip


class Added(Tables):
    """A store that keeps what is added, and has the runs in a directory."""

    def __init__(self, profile: Any, trials_dir: Path) -> None:
        super().__init__(profile)
        self.trials_dir = trials_dir

    def add(self, name: str, rows: pd.DataFrame) -> None:
        self.tables[name] = rows


def test_captured_runs_are_measured_at_the_ranks_of_the_profile(tmp_path: Path) -> None:
    """The median width is 16: shares of 2, 4 and 8 are ranks 8, 4 and 2; the methods' rank is 5; tangents are at 4."""
    cpu = PROFILES["cpu"]
    profile = dataclasses.replace(cpu, config=dataclasses.replace(cpu.config, rank=5), shares=(2, 4, 8, 64))
    gradients = noise(OF_A_RUN)
    write_run(tmp_path / "captured-adamw_x", gradients, steps=6, every=10, keep="gram")
    store = Added(profile, tmp_path)
    rows = table("cell method seed captured", ("captured-adamw_x", "adamw", 3, True), ("x", "adamw", 0, False))
    captured_tables.absorb(store, rows)  # type: ignore[arg-type]
    energies, tangents, angles = (store.read(f"captured_{name}") for name in ("energy", "tangent", "angles"))
    for rows in (energies, tangents, angles):
        assert {*records(rows, "cell method seed")} == {("captured-adamw_x", "adamw", 3)}
    assert set(energies["rank"]) == {1, 2, 4, 5, 8}
    assert set(tangents["rank"]) == {4}
    assert set(tangents["index"]) == set(range(4))
    assert {*records(angles, "rank lag_steps")} == {(5, 10), (5, 40)}  # one and four captures; there are no sixteen
    G = {name: each.numpy() for name, each in gradients(20).items()}
    sigma = np.linalg.svd(G["blocks.2.up.weight"], compute_uv=False)
    rows = energies.query("step == 20 and kind == 'up' and depth == 2")
    for rank, ratio, m, n, fixed in records(rows, "rank ratio m n null_isotropic"):
        assert ratio == pytest.approx(math.sqrt((sigma[:rank] ** 2).sum() / (sigma**2).sum()), rel=1e-5)
        assert (m, n, fixed) == (16, 40, pytest.approx(rank / 16))
    S = np.linalg.svd(gradients(10)["blocks.2.up.weight"].numpy())[0][:, :4]
    X = G["blocks.2.up.weight"].astype(float)
    derivative = np.linalg.svd(-2 * (X - S @ (S.T @ X)) @ (X.T @ S), compute_uv=False)
    rows = tangents.query("step == 20 and kind == 'up' and depth == 2").sort_values("index")
    assert set(rows["lag_steps"]) == {10}
    assert rows["singular_value"].tolist() == pytest.approx(derivative.tolist(), rel=1e-4)
    assert rows["normalized"].tolist() == pytest.approx((derivative / (X**2).sum()).tolist(), rel=1e-4)


def test_twenty_values_of_the_tangent_are_kept(tmp_path: Path) -> None:
    write_run(tmp_path / "run", noise({"blocks.0.up.weight": (100, 100)}), steps=2, keep="gram")
    store = Added(PROFILES["cpu"], tmp_path)
    captured_tables.absorb(store, table("cell method seed captured", ("run", "rso", 0, True)))  # type: ignore[arg-type]
    assert sorted(store.read("captured_tangent")["index"]) == [*range(20)]
    assert set(store.read("captured_tangent")["rank"]) == {25}
    assert store.read("captured_angles").empty  # of AdamW only
    assert (PROFILES["cpu"].rank, PROFILES["paper"].rank) == (16, 512)
