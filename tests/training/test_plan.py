"""A training by a plan: the manifest holds the plan, and only the same one goes on."""

from __future__ import annotations

import json

import pytest

from subspace_lab.runs import Run, RunError
from subspace_lab.training import train
from tests.training.test_resume import content, interrupted
from tests.training.tiny import tiny_config

PLAN = {
    "layers": [{"layer": "model.layers.0.mlp.up_proj.weight", "rank": 2, "walk_step": 0.25, "evidence": [0.5, None]}],
    "by": "hand",
}


@pytest.fixture
def planned(text, tmp_path):
    """The configuration of a training by a plan, and the plan's file."""
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(PLAN))
    return tiny_config(text, optimizer="SubspaceAdam", optimizer_options={"plan": str(path)}), path


def test_the_manifest_holds_the_plan_and_the_same_one_goes_on(planned, tmp_path, monkeypatch):
    config, path = planned
    whole = content(train(tmp_path / "whole", config))
    assert Run.open(tmp_path / "whole").manifest["plan"] == PLAN
    interrupted(tmp_path / "run", config, 5, monkeypatch)
    path.write_text(json.dumps(PLAN, indent=4))  # other bytes, the same plan
    assert content(train(tmp_path / "run", resume=True)) == whole


def test_another_plan_does_not_go_on(planned, tmp_path, monkeypatch):
    """One number is another that no shape and no number of groups depends on."""
    config, path = planned
    interrupted(tmp_path / "run", config, 5, monkeypatch)
    before = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    other = {**PLAN, "layers": [{**PLAN["layers"][0], "walk_step": 0.5}]}
    for change, said in (
        (lambda: path.write_text(json.dumps(other)), "is not the plan that"),
        (lambda: path.write_text("{"), "is no JSON"),
        (path.unlink, "cannot be read"),
    ):
        change()
        with pytest.raises(RunError, match=rf"^[^\n]*{said}[^\n]*restore the file from the plan in [^\n]*json$"):
            train(tmp_path / "run", resume=True)
        assert {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()} == before


def test_a_training_without_a_plan_says_so(text, tmp_path):
    assert Run.open(train(tmp_path / "run", tiny_config(text))).manifest["plan"] is None


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ("missing.json", r"the plan missing\.json cannot be read \(No such file or directory\)"),
        (".", r"the plan \. cannot be read"),
        (5, "plan must be the path of a plan"),
        (None, "plan must be the path of a plan"),
    ],
)
def test_what_is_no_plan_begins_no_run(text, tmp_path, plan, message):
    config = tiny_config(text, optimizer="SubspaceAdam", optimizer_options={"plan": plan})
    with pytest.raises(ValueError, match=f"^{message}[^\n]*$"):
        train(tmp_path / "run", config)
    assert not (tmp_path / "run").exists()
