"""A whole call of the smoke profile: its tables, its page, and what the next call does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from subspace_lab.experiments import study as engine
from subspace_lab.runs import RunError
from subspace_lab.studies.finetuning import fine_tune, out_dir, profiles, study
from subspace_lab.studies.finetuning.claims import CLAIMS
from subspace_lab.training import TrainConfig


def test_all_trainings_are_in_the_tables(whole: Path) -> None:
    """Four methods with two rates and two evaluation seeds, and two captured runs of each source."""
    results = pd.read_parquet(whole / "results.parquet")
    assert (results["status"] == "complete").all()
    counts = results.groupby(["source", "phase"]).size().to_dict()
    assert counts == {("", "tune"): 8, ("", "evaluate"): 8, ("task", "evaluate"): 2, ("text", "evaluate"): 2,
                      ("scratch", "evaluate"): 2}  # fmt: skip
    labelled = results[results["task"] == "sentiment"]
    assert labelled["eval_accuracy"].between(0, 1).all()
    assert results["eval_exact"].isna().all()
    table = pd.read_parquet(whole / "tables" / "scores.parquet")
    assert sorted(table["method"]) == ["adamw", "galore", "lora", "subtrack"]
    assert set(table["seeds"]) == {2}
    state = table.set_index("method")["state_bytes"]
    assert state["lora"] < state["subtrack"] < state["adamw"]


def test_a_training_of_the_table_is_that_of_its_directory(whole: Path) -> None:
    results = pd.read_parquet(whole / "results.parquet")
    for row in results[results["task"] == "sentiment"].to_dict("records"):
        lines = (whole / "work" / "cells" / row["cell"] / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        last = [line for line in map(json.loads, lines) if "eval_loss" in line][-1]
        assert (row["eval_loss"], row["eval_accuracy"]) == (last["eval_loss"], last["eval_accuracy"])
        assert row["steps"] == len(lines)


def test_gradients_of_all_sources_over_all_blocks(whole: Path) -> None:
    table = pd.read_parquet(whole / "tables" / "gradients.parquet")
    assert table.groupby(["source", "seed", "share"])["depth"].nunique().to_dict() == {
        (source, seed, share): 4
        for source in ("task", "text", "scratch")
        for seed in range(2)
        for share in (4.0, 16.0, 64.0)
    }
    assert table["ratio"].between(0, 1).all()


def test_the_page_has_every_claim_table_and_picture(whole: Path) -> None:
    page = (whole / "finetuning.md").read_text(encoding="utf-8")
    assert page.startswith("# Fine-tuning\n\nWritten by `subspace-lab finetuning OUT_DIR --profile smoke`")
    for claim in CLAIMS:
        assert f"\n## {claim.name}\n\n{claim.text}\n" in page
    assert "a random `llama-2m` on `sentiment`" in page
    assert "22 trainings are complete" in page
    assert "\n## Every method: sentiment\n" in page
    for file in (file for one in study.QUANTITIES.values() for file in one.pictures):
        assert f"]({'.'}/{file}.png)" in page
        assert (whole / f"{file}.png").stat().st_size > 10_000
    assert "## Trainings without a result" not in page


def test_tables_are_enough_to_draw_again_and_nothing_is_trained(whole: Path, tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "study"
    shutil.copytree(whole, path, ignore=shutil.ignore_patterns("work", "*.png", "*.pdf", "*.md"))
    smoke = profiles.PROFILES["smoke"]
    monkeypatch.setitem(profiles.PROFILES, "smoke", profiles.dataclasses.replace(smoke, tasks=("sentiment",)))
    monkeypatch.setattr(engine, "run_missing", None)
    fine_tune(path, profile="smoke")
    for name in ("finetuning.md", "finetuning.png", "finetuning_depth.pdf"):
        assert (path / name).read_bytes() == (whole / name).read_bytes()
    (path / "finetuning.png").unlink()
    monkeypatch.setattr(study, "study_of", None)  # which reads the model
    fine_tune(path, profile="smoke", draw_only=True)
    assert (path / "finetuning.png").read_bytes() == (whole / "finetuning.png").read_bytes()
    with pytest.raises(ValueError, match="recompute has no effect on draw_only"):
        fine_tune(path, profile="smoke", draw_only=True, recompute=True)
    with pytest.raises(ValueError, match="workers has no effect on draw_only"):
        fine_tune(path, profile="smoke", draw_only=True, workers=2)
    monkeypatch.setitem(profiles.PROFILES, "smoke", profiles.dataclasses.replace(smoke, tasks=("arithmetic",)))
    with pytest.raises(RunError, match="holds a fine-tuning study of another profile"):
        fine_tune(path, profile="smoke")


def test_a_model_that_was_not_fetched_is_one_line_and_leaves_no_directory(tmp_path: Path, monkeypatch) -> None:
    cpu = profiles.PROFILES["cpu"]
    monkeypatch.setitem(
        profiles.PROFILES, "cpu", profiles.dataclasses.replace(
            cpu, config=profiles.dataclasses.replace(cpu.config, model="smollm2", precision="float32")
        ),
    )  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(ValueError, match="not in the cache; fetch it once") as caught:
        fine_tune(tmp_path / "study", profile="cpu")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "study").exists()


def test_the_precision_is_not_measured_for_machines_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Slurm would train elsewhere"):
        fine_tune(tmp_path / "study", profile="cpu", executor="slurm")


def test_every_configuration_of_every_profile_is_one_that_trains() -> None:
    """Rates stand for every method, in ascending order, and a shorter training is shorter."""
    for profile in profiles.PROFILES.values():
        assert profile.rates.keys() == profile.methods.keys()
        assert all(list(rates) == sorted(set(rates)) and len(rates) > 1 for rates in profile.rates.values())
        assert profile.tuning_steps < (profile.base.steps or 0)
        scale = out_dir.settled(Path("nowhere"), profile)
        for one in study.study_of(scale).wanted(None, ["scores", "gradients"]):
            assert TrainConfig.from_dict(one.trial.config).to_dict() == one.trial.config
