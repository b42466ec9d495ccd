"""Variants of the study: one name means one training, and methods that the ablation contains are those methods."""

from __future__ import annotations

from typing import Any

import pytest

from subspace_lab.experiments.variants import Trainings, parse_methods
from subspace_lab.optim import METHODS, SubspaceAdam, method_named
from subspace_lab.studies.grass_paper.profiles import PROFILES
from subspace_lab.studies.grass_paper.quantities import QUANTITIES
from subspace_lab.studies.grass_paper.quantities.ablation import ablation, ablation_cells
from subspace_lab.studies.grass_paper.trials import phases, trainings
from subspace_lab.studies.grass_paper.variants import (
    NULL,
    RANDOM_NULL,
    donor,
    larger,
    methods,
    part,
    part_name,
    part_settings,
    tuned,
)


@pytest.mark.parametrize("name", PROFILES)
def test_one_name_means_one_training(name):
    """Variants of all quantities by name have the same settings, and no two of them are the same training."""
    profile, known = PROFILES[name], {}
    for quantity in QUANTITIES.values():
        for variant, settings in quantity.variants(profile).items():
            assert known.setdefault(variant, settings) == settings
    make = trainings(profile, "")
    both = (make.plain, make.captured)
    assert len({one(variant, {"lr": 1e-3}, 0, "tune").hash for variant in profile.methods for one in both}) == (
        2 * len(profile.methods)
    )
    assert len({make.plain(variant, {"lr": 1e-3}, 0, "tune").hash for variant in known}) == len(known)


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


def known(_: object) -> list[dict[str, Any]]:
    return []


LATER = {"fastgrasswalk", "fastgrassjump", "dctadamw"}  # methods that the study was not made for


def test_all_methods_are_in_the_tables_at_both_sizes_of_the_paper():
    profile, compared = PROFILES["paper"], [name for name in METHODS if name not in LATER]
    assert set(methods(profile)) == {*compared, NULL, RANDOM_NULL}
    assert set(larger(profile)) == {f"{name} llama-7b" for name in (*compared, NULL)}
    make = trainings(profile, "")
    for name, preset in (("tables", "llama-1b"), ("larger", "llama-7b")):
        search, evaluation = phases(QUANTITIES[name], profile, make)
        for place, wanted in enumerate([*search.wanted(known), *evaluation.wanted(known)]):
            trial, config = wanted.trial, wanted.trial.config
            assert trial.factors["preset"] == config["preset"] == preset
            assert config["batch_size"] * config["accumulation"] == 16
            if config["optimizer"].startswith("grass") and trial.factors["method"] != RANDOM_NULL:
                assert (config["rank"], config["update_interval"]) == (
                    (1024, 500) if preset == "llama-7b" else (512, 200)
                )
            tuning = place < len(search.wanted(known))
            assert config["steps"] == (1000 if preset == "llama-7b" and tuning else 10_000)


def test_the_larger_size_of_a_laptop_is_tuned_on_few_steps():
    profile = PROFILES["cpu"]
    search, evaluation = phases(QUANTITIES["larger"], profile, trainings(profile, ""))
    seen = {
        (trial.config["steps"], trial.config["vocab_size"], trial.config["preset"], trial.config["seed"] >= 1000)
        for trial in (one.trial for phase in (search, evaluation) for one in phase.wanted(known))
    }
    assert seen == {(300, 4096, "llama-7m", True), (1000, 4096, "llama-7m", False)}
    for name, method, steps, tuned_on in (
        ("cpu", "adamw llama-7m", 1000, 300), ("paper", "adamw llama-7b", 10_000, 1000),
    ):  # fmt: skip
        search, evaluation = phases(QUANTITIES["larger"], PROFILES[name], trainings(PROFILES[name], ""))
        setting = {**search.starts[method], "warmup": tuned_on // 20}
        whole = evaluation.make(method, setting, 0, "evaluate").config
        assert (whole["steps"], whole["warmup"]) == (steps, steps // 20)  # a twentieth of either length
    short = trainings(PROFILES["paper"], "").short("adamw llama-7b", {"lr": 1e-3}, 1000, "tune")
    assert (short.config["steps"], short.config["warmup"]) == (1000, 100)


@pytest.mark.parametrize(
    ("settings", "method"),
    [
        (part("walk", "keep", "none"), "grasswalk"), (part("jump", "keep", "free"), "grassjump"),
        (part("track", "keep", "limited"), "subtrack"), (part("svd", "transport", "none"), "svd+AO+RS"),
        (part("frozen", "keep", "none"), "frozen+AO+RS"), ({"optimizer": "grasswalk", "rank": 8}, "grasswalk"),
        ({"optimizer": "grassjump", "rank": 8}, "grassjump"), (part("coordinates", "transport", "free"), "grasswalk"),
    ],
)  # fmt: skip
def test_a_variant_inherits_from_the_method_of_its_rule(settings, method):
    assert donor(settings, tuned(PROFILES["cpu"])) == method


def test_a_variant_waits_for_its_donor_and_starts_at_its_best():
    """By hand: the donor's second trial is the best; the variant then begins with all of its setting."""
    profile = PROFILES["cpu"]
    search, evaluation, own, _ = phases(QUANTITIES["sensitivity"], profile, trainings(profile, ""))
    losses: dict[str, float] = {}

    def rows_of(trials):
        done = [trial for trial in trials if trial.hash in losses]
        return [{"status": "complete", "eval_loss": losses[trial.hash]} for trial in done]

    assert not any(one.is_known for one in own.wanted(rows_of))
    assert len(own.wanted(rows_of)) == 5 * (4 + 4 + 4 + 4 + 1 + 1)
    while new := [one.trial for one in search.wanted(rows_of) if one.is_known and one.trial.hash not in losses]:
        for trial in new:
            losses[trial.hash] = abs(trial.config["lr_rest"] - 0.03) + abs(trial.config["lr"] - 1e-3)
    assert search.best("grasswalk", rows_of) == {"lr": 1e-3, "lr_rest": 0.03, "beta2": 0.999, "warmup": 30}
    first = [one.trial for one in own.wanted(rows_of) if one.is_known]
    assert {(one.config["lr"], one.config["lr_rest"], one.config["betas"][1]) for one in first} == {(1e-3, 0.03, 0.999)}
    assert len(first) == 4 + 4 + 4 + 4 + 1 + 1
    assert all(one.is_known for one in evaluation.wanted(rows_of))


def test_captured_runs_differ_from_the_others_in_what_they_keep_and_nothing_else():
    profile = PROFILES["cpu"]
    make = trainings(profile, "")
    plain, kept = (one("grasswalk", {"lr": 1e-3}, 1, "evaluate") for one in (make.plain, make.captured))
    changed = {name: kept.config[name] for name in plain.config if plain.config[name] != kept.config[name]}
    assert changed == {"every": 15}
    assert (plain.factors["captured"], kept.factors["captured"]) == (False, True)
    assert kept.label == f"captured-{plain.label}"
