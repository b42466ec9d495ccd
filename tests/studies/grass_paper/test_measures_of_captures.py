"""What is measured of captured runs, on tables made by hand and on runs with known gradients."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import quad

from subspace_lab.studies.grass_paper import captures, energy, relation, tangent
from subspace_lab.studies.grass_paper.experiments import EXPERIMENTS
from subspace_lab.studies.grass_paper.profiles import PROFILES
from subspace_lab.studies.grass_paper.projection_angles import _histogram
from tests.runs_by_hand import noise, write_run
from tests.studies.grass_paper.by_hand import Tables, records, table, trainings

ENERGY = "method seed step kind depth rank m ratio null_noise null_isotropic"
TANGENT = "method seed step kind depth index rank lag_steps singular_value normalized null_noise"


def test_nulls_of_the_energy_are_roots_as_the_ratio_is() -> None:
    """Only AdamW's runs are shown; the nulls come as shares of squares."""
    rows = table(
        ENERGY,
        ("captured adamw", 0, 10, "q_proj", 1, 16, 64, 0.75, 0.36, 0.25),
        ("captured galore", 0, 10, "q_proj", 1, 16, 64, 0.7, 0.49, 0.25),
        ("captured adamw", 1, 20, "up_proj", 0, 32, 64, 0.875, 0.81, 0.5),
    )
    found = energy.measure(Tables(captured_energy=rows))
    assert list(found.columns) == ENERGY.split()[1:]
    assert records(found, "seed step kind depth rank m ratio") == [
        (0, 10, "q_proj", 1, 16, 64, 0.75), (1, 20, "up_proj", 0, 32, 64, 0.875),
    ]  # fmt: skip
    assert found["null_noise"].tolist() == pytest.approx([0.6, 0.9])
    assert found["null_isotropic"].tolist() == pytest.approx([0.5, math.sqrt(0.5)])


@pytest.mark.parametrize(
    ("steps", "shown"),
    [((5, 10, 70, 75, 90), [5, 70, 90]), ((5, 10, 70, 90), [5, 70, 90]), ((5, 10), [5, 10]), ((5,), [5])],
)
def test_tangents_are_means_over_layers_at_the_ends_and_in_the_middle(steps: tuple[int, ...], shown: list[int]) -> None:
    """Blocks 0, 1 and 2 have 1, 2 and 6 times as much: 3 times in the mean."""
    rows = [
        (method, seed, step, kind, depth, index, 4, 5, 8.0 * share, 0.001 * step * share + seed + index, 0.1 * share)
        for method in ("captured adamw", "captured rso") for seed in (0, 1) for step in steps
        for kind in ("up_proj", "q_proj") for depth, share in enumerate((1, 2, 6)) for index in (0, 1)
    ]  # fmt: skip
    found = tangent.measure(Tables(captured_tangent=table(TANGENT, *rows)))
    assert records(found, "seed step kind index rank lag_steps") == [
        (seed, step, kind, index, 4, 5)
        for seed in (0, 1) for step in shown for kind in ("up_proj", "q_proj") for index in (0, 1)
    ]  # fmt: skip
    assert found["normalized"].tolist() == pytest.approx(
        (0.003 * found["step"] + found["seed"] + found["index"]).tolist()
    )
    assert found["singular_value"].tolist() == pytest.approx([24.0] * len(found))
    assert found["null_noise"].tolist() == pytest.approx([0.3] * len(found))


PLACES = {
    "adamw": (3, 1, 4),
    "galore": (1, 2, 3),
    "rso": (2, 3, 2),
    "fira": (4, 4, 1),
}  # of energy, flatness, steepness
LOSSES = {"adamw": 3.0, "galore": 3.1, "rso": 3.2, "fira": 4.9}


def captured(methods: list[str]) -> Tables:
    """Only the later half of the first seed, the methods' rank and the outer two values count."""
    energies, tangents = [], []
    for method in methods:
        e, f, s = PLACES[method]
        for seed, step, kind in ((s_, t, k) for s_ in (0, 1) for t in (0, 49, 50, 100) for k in ("q_proj", "up_proj")):
            counts = seed == 0 and step >= 50
            for rank in (8, 16, 32):
                ratio = 0.1 * e + (0.03 if step == 100 else 0) + (0.06 if kind == "up_proj" else 0)
                row = (kind, 0, rank, 64, ratio if counts and rank == 16 else 0.01 * (5 - e), 0.1, 0.1)
                energies.append((f"captured {method}", seed, step, *row))
            first = s * (1.0 if kind == "q_proj" else 3.0)  # the mean is twice s
            share = 0.1 * f * (0.5 if step == 50 else 1.5)
            for index, value in ((0, first), (1, 9.0 - s), (5, first * share)):
                row = (kind, 0, index, 4, 5, 1.0, value if counts else 10.0 / (1 + s * (1 + index)), 0.1)
                tangents.append((f"captured {method}", seed, step, *row))
    cells = trainings({name: {1e-3: [loss - 0.05, loss + 0.05], 3e-3: [9.0]} for name, loss in LOSSES.items()})
    return Tables(
        PROFILES["cpu"],
        cells=cells,
        captured_energy=table(ENERGY, *energies),
        captured_tangent=table(TANGENT, *tangents),
    )


def test_the_relation_is_that_of_late_means_to_the_loss() -> None:
    found = relation.measure(captured(list(PLACES))).set_index("method").loc[list(PLACES)]
    assert found["eval_loss"].tolist() == pytest.approx(list(LOSSES.values()))
    assert found["energy"].tolist() == pytest.approx([0.1 * e + 0.045 for e, _, _ in PLACES.values()])
    assert found["flatness"].tolist() == pytest.approx([0.1 * f for _, f, _ in PLACES.values()])
    assert found["steepness"].tolist() == pytest.approx([2.0 * s for _, _, s in PLACES.values()])
    # places by loss 1, 2, 3, 4 against 3, 1, 2, 4: squares of the differences sum up to 6; p is 1 - |rho| of four
    for name, rho in (("energy", 1 - 6 * 6 / 60), ("flatness", 1.0), ("steepness", -1.0)):
        assert found[f"rho_{name}"].tolist() == pytest.approx([rho] * 4)
        assert found[f"p_{name}"].tolist() == pytest.approx([1 - abs(rho)] * 4, abs=1e-12)


def test_three_methods_have_no_correlation() -> None:
    found = relation.measure(captured(["adamw", "galore", "rso"]))
    assert found["rho_energy"].isna().all()
    assert found["p_flatness"].isna().all()
    assert relation.measure(Tables()).empty


def test_angles_are_those_of_the_first_seed() -> None:
    rows = table("kind count cell method seed", ("q_proj", 3, "a", "captured adamw", 0), ("q_proj", 5, "b", "x", 1))
    found = EXPERIMENTS["projection_angles"].measure(Tables(captured_angles=rows))  # type: ignore[arg-type]
    assert found.to_dict("records") == [{"kind": "q_proj", "count": 3}]


def test_the_null_of_angles_is_that_of_the_dimensions_of_each_pair() -> None:
    """Wachter's density of cosines, ``sqrt(4 a (1 - a) - c^2) / (pi a (1 - c^2))`` at a = r/m, integrated by scipy."""
    edges = np.linspace(0, 1, 5)
    pairs = [np.full(16, 0.1), np.full(32, 0.3), np.array([0.3] * 8 + [0.9] * 24)]
    found = _histogram("q_proj", 128, 10, 2, pairs, edges)
    assert found["count"].tolist() == [16, 40, 0, 24]
    assert found["density"].tolist() == pytest.approx([0.8, 2.0, 0.0, 1.2])
    expected = np.zeros(4)
    for r in (16, 32, 32):
        a = r / 128
        end = 2 * math.sqrt(a * (1 - a))
        for place, (low, high) in enumerate(itertools.pairwise(edges)):
            share, _ = quad(
                lambda c, a=a, end=end: math.sqrt(max(end**2 - c**2, 0)) / (math.pi * a * (1 - c**2)),
                min(low, end), min(high, end),
            )  # fmt: skip
            expected[place] += r * share
    assert found["null_density"].tolist() == pytest.approx((expected / (80 * 0.25)).tolist(), rel=1e-6)


SHAPES = {f"blocks.{depth}.up.weight": (16, 40) for depth in range(3)} | {
    "blocks.0.down.weight": (48, 12), "blocks.1.down.weight": (24, 24),
}  # fmt: skip


class Added(Tables):
    """A store that keeps what is added, and has the runs in a directory."""

    def __init__(self, profile: Any, cells_dir: Path) -> None:
        super().__init__(profile)
        self.cells_dir = cells_dir

    def add(self, name: str, rows: pd.DataFrame) -> None:
        self.tables[name] = rows


def test_captured_runs_are_measured_at_the_ranks_of_the_profile(tmp_path: Path) -> None:
    """The median width is 16: shares of 2, 4 and 8 are ranks 8, 4 and 2; the methods' rank is 5; tangents are at 4."""
    cpu = PROFILES["cpu"]
    profile = dataclasses.replace(cpu, config=dataclasses.replace(cpu.config, rank=5), shares=(2, 4, 8, 64))
    gradients = noise(SHAPES)
    write_run(tmp_path / "captured-adamw_x", gradients, steps=6, every=10, keep="gram")
    store = Added(profile, tmp_path)
    captures.absorb(store, [SimpleNamespace(name="captured-adamw_x", method="captured adamw", seed=3)])  # type: ignore[list-item,arg-type]
    energies, tangents, angles = (store.read(f"captured_{name}") for name in ("energy", "tangent", "angles"))
    for rows in (energies, tangents, angles):
        assert {*records(rows, "cell method seed")} == {("captured-adamw_x", "captured adamw", 3)}
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
    captures.absorb(store, [SimpleNamespace(name="run", method="captured rso", seed=0)])  # type: ignore[list-item,arg-type]
    assert sorted(store.read("captured_tangent")["index"]) == [*range(20)]
    assert set(store.read("captured_tangent")["rank"]) == {25}
    assert store.read("captured_angles").empty  # of AdamW only
    assert captures.cell_rank(store) == 16  # type: ignore[arg-type]
    assert captures.cell_rank(Tables(PROFILES["paper"])) == 512  # type: ignore[arg-type]
