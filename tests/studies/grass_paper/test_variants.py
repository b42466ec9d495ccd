"""Variants of the study: one name means one training, and methods that the ablation contains are those methods."""

from __future__ import annotations

import pytest

from subspace_lab.experiments.variants import Trainings, parse_methods
from subspace_lab.optim import METHODS, SubspaceAdam, method_named
from subspace_lab.studies.grass_paper.profiles import PROFILES
from subspace_lab.studies.grass_paper.quantities import QUANTITIES
from subspace_lab.studies.grass_paper.quantities.ablation import ablation, ablation_cells
from subspace_lab.studies.grass_paper.quantities.methods_overview import methods
from subspace_lab.studies.grass_paper.trials import phases, trainings
from subspace_lab.studies.grass_paper.variants import part_name, part_settings


@pytest.mark.parametrize("name", PROFILES)
def test_one_name_means_one_training(name):
    """Variants of all quantities by name have the same settings, and no two of them are the same training."""
    profile, known = PROFILES[name], {}
    for quantity in QUANTITIES.values():
        for variant, settings in quantity.variants(profile).items():
            assert known.setdefault(variant, settings) == settings
    make = trainings(profile, "")
    assert len({make[kept](variant, {"lr": 1e-3}, 0, "tune").hash for variant in profile.methods for kept in make}) == (
        2 * len(profile.methods)
    )
    assert len({make[False](variant, {"lr": 1e-3}, 0, "tune").hash for variant in known}) == len(known)


def test_cells_of_the_ablation_that_are_methods_are_those_methods():
    profile = PROFILES["cpu"]
    for parts in ablation_cells(profile):
        settings = ablation(profile)[part_name(*parts)]
        if (kind := method_named(settings["optimizer"])) is not SubspaceAdam:
            assert kind.parts == (parts[0], parts[1], "scaled")
            same = {**part_settings(*parts), "optimizer": "subspaceadam"}
            make = Trainings(profile.base, parse_methods({"one": settings, "two": same}), "")
            one, two = (make.config(name, {"lr": 1e-3}, 0) for name in ("one", "two"))
            assert (one.scale, one.rank, one.betas) == (two.scale, two.rank, two.betas)


def test_all_methods_are_in_the_tables_at_both_sizes_of_the_paper():
    profile = PROFILES["paper"]
    assert set(methods(profile)) == {*METHODS, *(f"{name} llama-7b" for name in METHODS)}
    grid, _ = phases(QUANTITIES["tables"], profile, trainings(profile, ""))
    for trial in grid.trials():
        large, config = str(trial.factors["method"]).endswith("7b"), trial.config
        assert trial.factors["preset"] == config["preset"] == ("llama-7b" if large else "llama-1b")
        assert config["batch_size"] * config["accumulation"] == 16
        if config["optimizer"].startswith("grass"):
            assert (config["rank"], config["update_interval"]) == ((1024, 500) if large else (512, 200))


def test_captured_runs_differ_from_the_others_in_what_they_keep_and_nothing_else():
    profile = PROFILES["cpu"]
    make = trainings(profile, "")
    plain, kept = (make[captured]("grasswalk", {"lr": 1e-3}, 1, "evaluate") for captured in (False, True))
    changed = {name: kept.config[name] for name in plain.config if plain.config[name] != kept.config[name]}
    assert changed == {"every": 15}
    assert (plain.factors["captured"], kept.factors["captured"]) == (False, True)
    assert kept.label == f"captured-{plain.label}"
