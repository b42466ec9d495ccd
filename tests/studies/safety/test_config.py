"""Configurations: both directions, bad values, and how many jobs the profiles have."""

from __future__ import annotations

from collections import Counter

import pytest

import subspace_lab as sl
from subspace_lab.studies.safety.config import GridConfig, RegimeConfig, StudyConfig
from subspace_lab.studies.safety.jobs import jobs_of
from subspace_lab.studies.safety.profiles import PROFILES


@pytest.mark.parametrize("name", PROFILES)
def test_a_configuration_is_what_json_holds_of_it(name):
    config = sl.safety.profile(name)
    assert StudyConfig.from_dict(config.to_dict()) == config
    assert StudyConfig.from_dict({}) == StudyConfig()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"task": ["sentiment"]}, r"^there is no setting of a study 'task'; nearest: tasks"),
        ({"tasks": "sentiment"}, r"^tasks must be a list of texts, got 'sentiment'; write \('sentiment',\)$"),
        ({"tasks": []}, r"^tasks is empty; give at least one$"),
        ({"threats": ["clean", " clean"]}, r"^threats has ' clean' twice; leave one out$"),
        ({"defenses": [1]}, r"^defenses must be texts, got 1$"),
        ({"seeds": 0}, r"^seeds"),
        ({"steps": 1.5}, r"^steps"),
        ({"base_lr": -1}, r"^base_lr"),
        ({"precision": "float16"}, r"^precision"),
        ({"policy": ""}, r"^policy must be a text, got ''$"),
        ({"base": 3}, r"^base must be a text, got 3$"),
        ({"freeze_embeddings": 1}, r"^freeze_embeddings must be true or false, got 1$"),
        ({"evaluation": {"task_row": 3}}, r"^there is no setting of evaluation 'task_row'; nearest: task_rows"),
        ({"evaluation": {"task_rows": 0}}, r"^evaluation: task_rows"),
        ({"further": [{"tasks": ["sentiment"]}]}, r"^a setting of a further grid is missing"),
        ({"further": {}}, r"^further must be a list of grids"),
    ],
)
def test_bad_values_are_one_line(values, message):
    with pytest.raises(ValueError, match=message) as error:
        StudyConfig.from_dict(values)
    assert "\n" not in str(error.value)


def test_regimes_have_a_canonical_text_and_rates_of_their_own():
    regime = RegimeConfig.parse("Grass-Walk:walk-step=0.05:rank=8:lr=1e-3+0.003")
    assert regime.text == "grasswalk:rank=8:walk_step=0.05"
    assert regime.lrs == (0.001, 0.003)
    assert RegimeConfig.parse("adamw").lrs == (0.001,)
    lora = RegimeConfig.parse("lora:rank=4:lr=2e-3")
    assert (lora.training(), lora.optimizer, lora.text) == (
        {"adapter": "lora", "adapter_rank": 4},
        "adamw",
        "lora:rank=4",
    )


def test_the_jobs_of_the_profiles_counted_by_hand():
    """Smoke: 2 threats, 2 regimes, 3 trained chains and a repair. Cpu: 15 trained chains, 4 repairs; and 4 chains."""

    def count(name):
        jobs = jobs_of(sl.safety.profile(name))
        of_models = sum(cell.factors["stage"] in {"base", "aligned"} for cell in jobs.cells)
        kinds = Counter(one.recipe.rpartition(":")[2] for one in jobs.trials)
        return kinds["TUNE"], kinds["REPAIR"], kinds["EVALUATE"] - of_models, {cell.reason for cell in jobs.cells}

    assert count("smoke") == (12, 4, 16, {""})
    assert count("cpu") == (540 + 360, 144, 1044, {""})


def test_a_chain_is_one_cell_however_it_is_written():
    config = StudyConfig(
        threats=("clean",), defenses=("safegrad:rho=1.0", "safegrad", "resta+lox", "lox+resta"),
        further=(GridConfig(tasks=("sentiment",), threats=("clean",), regimes=("adamw",), defenses=("safegrad",)),),
    )  # fmt: skip
    cells = [cell.factors["defense"] for cell in jobs_of(config).cells if cell.factors["threat"]]
    assert cells == ["safegrad", "lox+resta"]


def test_unsupported_pairs_are_cells_with_a_reason_and_no_job():
    config = StudyConfig(threats=("clean",), regimes=("badam", "lora:optimizer=galore"), defenses=("none", "safegrad"))
    jobs = jobs_of(config)
    reasons = {(c.factors["regime"], c.factors["defense"]): c.reason for c in jobs.cells if c.factors["threat"]}
    assert reasons["badam", "none"] == ""
    assert "one block at a time" in reasons["badam", "safegrad"]
    assert all("adamw" in reasons["lora:optimizer=galore", one] for one in ("none", "safegrad"))
    assert sum(one.recipe.endswith(":TUNE") for one in jobs.trials) == 1


def test_an_aligned_model_is_taken_as_it_is():
    """There is no base, and nothing that acts while a model is aligned."""
    config = StudyConfig(threats=("clean",), aligned="hf:some/model", defenses=("none", "vaccine", "resta"))
    jobs = jobs_of(config)
    reasons = {cell.factors["defense"]: cell.reason for cell in jobs.cells if cell.factors["threat"]}
    assert reasons == {
        "none": "", "vaccine": "vaccine acts while a model is aligned, and aligned= is aligned already",
        "resta": "resta needs base; the study has none",
    }  # fmt: skip
    assert not any(one.recipe.endswith(":BASE") for one in jobs.trials)
