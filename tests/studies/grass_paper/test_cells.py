"""Names, choices and thinned curves of cells."""

from __future__ import annotations

import pandas as pd
import pytest

from subspace_lab.optim import METHODS, SubspaceAdam, method_named
from subspace_lab.studies.grass_paper import cells as evidence_cells
from subspace_lab.studies.grass_paper.cells import base_config, best_rows, seed_cells, tuning_cells
from subspace_lab.studies.grass_paper.profiles import PROFILES
from subspace_lab.studies.grass_paper.quantities import QUANTITIES
from subspace_lab.studies.grass_paper.quantities.ablation import ablation, ablation_cells
from subspace_lab.studies.grass_paper.quantities.methods_overview import methods
from subspace_lab.studies.grass_paper.variants import part_name, part_settings
from subspace_lab.studies.optimizers.cells import cells_of, parse_methods


@pytest.mark.parametrize("name", PROFILES)
def test_one_name_means_one_training(name):
    """Variants of all quantities by name have the same settings, and no two of them would share a directory."""
    profile, known = PROFILES[name], {}
    for quantity in QUANTITIES.values():
        for variant, settings in quantity.variants(profile).items():
            assert known.setdefault(variant, settings) == settings
    assert len(tuning_cells(known, profile)) == len(known) * len(profile.lrs)


def test_cells_of_the_ablation_that_are_methods_are_those_methods():
    profile = PROFILES["cpu"]
    for parts in ablation_cells(profile):
        settings = ablation(profile)[part_name(*parts)]
        if (kind := method_named(settings["optimizer"])) is not SubspaceAdam:
            assert kind.parts == (parts[0], parts[1], "scaled")
            same = {**part_settings(*parts), "optimizer": "subspaceadam"}
            one, two = (cells_of(parse_methods({"x": s}), [1e-3], 1, base_config(profile))[0] for s in (settings, same))
            assert (one.config.scale, one.config.rank, one.config.betas) == (
                two.config.scale, two.config.rank, two.config.betas,
            )  # fmt: skip


def test_all_methods_are_in_the_tables_at_both_sizes_of_the_paper():
    names = methods(PROFILES["paper"])
    assert set(names) == {*METHODS, *(f"{name} llama-7b" for name in METHODS)}
    for cell in tuning_cells(names, PROFILES["paper"]):
        large = cell.method.endswith("7b")
        assert cell.config.preset == ("llama-7b" if large else "llama-1b")
        assert cell.config.batch_size * cell.config.accumulation == 16
        if cell.method.startswith("grass"):
            assert (cell.config.rank, cell.config.update_interval) == ((1024, 500) if large else (512, 200))


def table():
    rows = [("a", 1e-3, 0, 4.0), ("a", 1e-2, 0, 3.0), ("a", 1e-1, 0, 5.0), ("a", 1e-2, 1, 9.0), ("b", 1e-3, 0, 2.0),
            ("b", 1e-2, 0, float("nan"))]  # fmt: skip
    found = pd.DataFrame(rows, columns=["method", "lr", "seed", "eval_loss"])
    return found.assign(status=["complete"] * 5 + ["diverged"], cell=[f"cell{i}" for i in range(6)])


def test_the_best_rate_is_that_of_the_first_seed():
    best = best_rows(table())
    assert best[["method", "lr", "seed", "edge"]].to_numpy().tolist() == [
        ["a", 1e-2, 0, ""], ["a", 1e-2, 1, ""], ["b", 1e-3, 0, "low"],
    ]  # fmt: skip
    assert best_rows(table(), ["b"])["cell"].tolist() == ["cell4"]


def test_seeds_come_one_after_the_other():
    profile = PROFILES["smoke"]
    found = table().replace({"method": {"a": "galore", "b": "adamw"}})
    variants = {name: {"optimizer": name} for name in ("galore", "adamw", "grasswalk")}
    cells = seed_cells(variants, found, profile)
    assert [(cell.method, cell.lr, cell.seed) for cell in cells] == [
        ("galore", 1e-2, 0), ("adamw", 1e-3, 0), ("galore", 1e-2, 1), ("adamw", 1e-3, 1),
    ]  # fmt: skip


def test_curves_are_means_over_blocks(monkeypatch, tmp_path):
    long = pd.DataFrame({
        "cell": "a", "method": "m", "lr": 1.0, "seed": 0, "step": range(120), "loss": [float(s) for s in range(120)],
        "bulk_share": [0.5 if s % 10 == 0 else float("nan") for s in range(120)],
    })  # fmt: skip
    short = long.head(3).assign(cell="b")
    monkeypatch.setattr(evidence_cells, "curves_table", lambda *_: pd.concat([long, short], ignore_index=True))
    found = evidence_cells._thinned(tmp_path, [])
    of_long, of_short = (found[found["cell"] == name] for name in "ab")
    assert of_long["loss"].tolist() == [3 * block + 1.0 for block in range(40)]
    assert of_long["bulk_share"].dropna().eq(0.5).all()
    assert of_short["loss"].tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(("steps", "points"), [(50, 50), (51, 26), (2550, 50), (2551, 50), (3, 3)])
def test_a_curve_has_fifty_points_at_most(steps, points, monkeypatch, tmp_path):
    curve = pd.DataFrame({"cell": "a", "method": "m", "lr": 1.0, "seed": 0, "step": range(steps), "loss": 1.0})
    monkeypatch.setattr(evidence_cells, "curves_table", lambda *_: curve)
    assert len(evidence_cells._thinned(tmp_path, [])) == points
