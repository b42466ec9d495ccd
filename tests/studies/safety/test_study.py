"""A study of seconds: its tables, what is run again and what is not, interruption, moving, plug-ins, verification."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

import subspace_lab as sl
from subspace_lab.experiments.recipe import WEIGHTS
from subspace_lab.experiments.study import StudyInterrupted
from subspace_lab.runs import RunError
from subspace_lab.runs.files import file_hash
from subspace_lab.studies.safety import study as studies
from subspace_lab.studies.safety.places import weights_dir
from subspace_lab.studies.safety.tables import TIMES
from subspace_lab.training.pretrained import pretrained_model
from tests.studies.safety.studies import TINY, Forked, delays, kinds

TABLES = ("results", "steps", "outcomes", "terms", "subspaces", "summary")


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A complete study, and what was run for it."""
    root, executor = tmp_path_factory.mktemp("tiny") / "study", Forked()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(studies, "executor_of", lambda *_, **__: executor)
        made = sl.safety.run(root, TINY)
    return made, executor.ran


@pytest.fixture
def again(monkeypatch):
    """Run a study by processes that are forked from this one, without its figures; gives what was run."""
    monkeypatch.setattr(studies, "save_all", lambda *_: [])
    monkeypatch.setattr(studies, "write_report", lambda root, *_, **__: root / "report.html")

    def run(root, config=TINY, *, kill=None, **how):
        executor = Forked(kill)
        monkeypatch.setattr(studies, "executor_of", lambda *_, **__: executor)
        sl.safety.run(root, config, **how)
        return executor.ran

    return run


@pytest.fixture
def copy(begun, tmp_path):
    return shutil.copytree(begun[0].path, tmp_path / "elsewhere" / "copy")


def comparable(study, name):
    table = getattr(study, name)
    return table.drop(columns=[one for one in TIMES if one in table])


def weights_of(root):
    return {path.parent.name: file_hash(path) for path in sorted(root.glob("weights/*/model.safetensors"))}


def test_every_job_runs_once_and_every_cell_has_a_row_per_judge(begun):
    study, ran = begun
    assert len(ran) == len({*ran})
    assert kinds(ran) == ["aligned", "base", *["evaluated"] * 8, *["repaired"] * 2, *["tuned"] * 4]
    results = study.results
    assert results["status"].eq("complete").all(), results["reason"].tolist()
    assert len(results) == 2 * 8  # two judges
    tuned = results[(results["judge"] == "exact") & results["stage"].isin(["tuned", "repaired"])]
    assert tuned.set_index(["threat", "defense"])["passes"].to_dict() == {
        (threat, defense): 4 for threat in ("clean", "poison:share=0.3") for defense in ("none", "counted", "halved")
    }
    assert tuned.set_index("defense")["safety_rows"].to_dict() == {"none": 0, "counted": 6, "halved": 0}
    jobs = {job["hash"]: job for job in study.manifest["jobs"]}
    assert [jobs[one]["name"] for one in results["hash"]] == results["cell"].tolist()
    assert [[*jobs[one]["parents"], ""][0] for one in results["hash"]] == results["parent"].tolist()
    assert [jobs[one]["parents"] for one in results["evaluation"]] == [[one] for one in results["hash"]]
    pairs = ["hash", "evaluation"]
    assert {*study.outcomes[pairs].itertuples(index=False)} == {*results[pairs].itertuples(index=False)}
    assert study.steps.groupby("cell")["step"].apply(list).tolist() == [[0, 2]] * 4
    aligned = results.loc[results["stage"] == "aligned", "hash"].iloc[0]
    assert study.terms["hash"].eq(aligned).all()
    assert study.terms.groupby("term").size().to_dict() == {"booster": 3, "panacea": 3}


def test_subspaces_are_of_the_poisoned_model_beside_the_clean_one(begun):
    study, _ = begun
    plain = study.results[(study.results["defense"] == "none") & (study.results["stage"] == "tuned")]
    hashes = plain.drop_duplicates("hash").set_index("threat")["hash"]
    updates = study.subspaces[study.subspaces["step"].isna()]
    assert updates["hash"].eq(hashes["poison:share=0.3"]).all()
    assert updates["clean"].eq(hashes["clean"]).all()
    assert {*updates["pair"]} == {"alignment-utility", "alignment-harm", "utility-harm"}
    gradients = study.subspaces[study.subspaces["step"].notna()]
    assert {*gradients["hash"]} == {*hashes}, "of every undefended tuning"
    assert gradients.groupby("hash")["step"].unique().map(list).tolist() == [[0, 2, 4]] * 2
    assert {*gradients["pair"]} == {"safety-user", "safety-harm", "safety-again", "user-harm"}


def test_the_layout_and_the_weights_as_transformers_load_them(begun):
    study, _ = begun
    there = {path.name for path in study.path.iterdir()}
    assert {"study.json", "cells", "weights", "outcomes", "table.csv", "table.tex", "report.html", "figures"} | {
        f"{name}.parquet" for name in TABLES
    } <= there
    for job in study.manifest["jobs"]:
        cell = study.path / "cells" / job["name"]
        assert json.loads(cell.with_name(f"{cell.name}.json").read_text())["status"] == "complete"
        if not job["name"].startswith("evaluated"):
            model = pretrained_model(str(weights_dir(cell)))
            saved = load_file(cell / WEIGHTS)
            assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())
            assert {"config.json", "tokenizer.json", "tokenizer_config.json"} <= {
                path.name for path in weights_dir(cell).iterdir()
            }


def test_a_repair_of_half_the_way_is_half_the_way(begun):
    study, _ = begun
    for job in study.manifest["jobs"]:
        if job["name"].startswith("repaired"):
            by_hash = {one["hash"]: one["name"] for one in study.manifest["jobs"]}
            paths = [study.path / "cells" / name for name in (job["name"], *map(by_hash.get, job["parents"]))]
            repaired, tuned, aligned = (load_file(path / WEIGHTS) for path in paths)
            name = "model.layers.0.mlp.up_proj.weight"
            torch.testing.assert_close(repaired[name], (tuned[name] + aligned[name]) / 2)
            assert torch.equal(repaired["model.embed_tokens.weight"], tuned["model.embed_tokens.weight"])


def test_the_same_command_again_runs_nothing_and_writes_the_same_tables(begun, copy, again):
    assert again(copy) == []
    for name in TABLES:
        pd.testing.assert_frame_equal(getattr(sl.safety.Study.open(copy), name), getattr(begun[0], name))
    assert sl.safety.Study.open(copy).verify() == []


def test_moved_and_without_its_plugin_it_is_opened_drawn_and_verified(copy):
    """In a process that never imports the plug-in."""
    import subprocess
    import sys

    code = (
        "import sys, subspace_lab as sl\n"
        f"study = sl.safety.Study.open({str(copy)!r})\n"
        "study.draw()\n"
        "assert study.verify() == [], study.verify()\n"
        "assert 'tiny' not in sl.safety.POLICIES\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_judge_of_ones_own_evaluates_again_and_trains_nothing(copy, again):
    ran = again(copy, dataclasses.replace(TINY, judges=("exact", "prefix", "short:most=3")))
    assert kinds(ran) == ["evaluated"] * 8
    results = sl.safety.Study.open(copy).results
    assert results.groupby("judge").size().to_dict() == {"exact": 8, "prefix": 8, "short:most=3": 8}
    assert again(copy) == []  # what was there before is there still


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"defenses": ("none", "counted", "halved", "idle")}, ["evaluated"] * 2 + ["tuned"] * 2),
        ({"defenses": ("none", "counted+halved")}, ["evaluated"] * 2 + ["repaired"] * 2),
        ({"threats": ("clean", "poison:share=0.5"), "defenses": ("none",)}, ["evaluated", "tuned"]),
        ({"seeds": 2, "threats": ("clean",), "defenses": ("none",)},
         ["aligned", "base", *["evaluated"] * 3, "tuned"]),
    ],
    ids=["a defense more", "a chain of known parts", "another share", "a seed more"],
)  # fmt: skip
def test_only_what_is_new_is_run(copy, again, change, expected):
    assert kinds(again(copy, dataclasses.replace(TINY, **change))) == expected


def test_altered_weights_are_trained_again_where_something_begins_from_them(begun, copy, again):
    study = sl.safety.Study.open(copy)
    cell = copy / "cells" / next(job["name"] for job in study.manifest["jobs"] if job["name"].startswith("aligned"))
    before = weights_of(copy)
    tensors = load_file(cell / WEIGHTS)
    for file in (cell / WEIGHTS, weights_dir(cell) / "model.safetensors"):
        file.unlink()
        save_file({name: tensor + 1 for name, tensor in tensors.items()}, file, {"format": "pt"})
    assert any("aligned" in line for line in study.verify())
    assert again(copy) == []  # nothing is to begin from it
    ran = again(copy, dataclasses.replace(TINY, defenses=("idle",), threats=("clean",)))
    assert kinds(ran) == ["aligned", "evaluated", "tuned"]
    assert {name: weights_of(copy)[name] for name in before} == before == weights_of(begun[0].path)


def test_verify_names_what_differs(copy):
    study = sl.safety.Study.open(copy)
    jobs = [job["name"] for job in study.manifest["jobs"]]
    outcomes = next(iter(sorted((copy / "outcomes").iterdir())))
    outcomes.write_bytes(outcomes.read_bytes()[:-1] + b"x")
    tuned = next(name for name in jobs if name.startswith("tuned"))
    shutil.rmtree(weights_dir(copy / "cells" / tuned))
    steps = study.steps.assign(cos_after=0.5)
    steps.to_parquet(copy / "steps.parquet")
    lines = study.verify()
    assert any(str(outcomes) in line for line in lines)
    assert any(f"weights/{tuned[-12:]}" in line and "missing" in line for line in lines)
    assert any("steps.parquet is not what the cells say" in line for line in lines)


def test_weights_are_removed_at_the_end_and_nothing_is_run_again(copy, again):
    assert again(copy, keep_weights="none") == []
    assert not [*(copy / "weights").iterdir()]
    assert not [*copy.glob(f"cells/*/{WEIGHTS}")]
    assert again(copy) == []
    assert sl.safety.Study.open(copy).verify() == []
    ran = again(copy, dataclasses.replace(TINY, threats=("clean",), defenses=("idle",)))
    assert kinds(ran) == ["aligned", "base", "evaluated", "tuned"]  # what it begins from is made again


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_random_instants_it_comes_to_the_same(begun, tmp_path, again, seed):
    """Whatever was being done: training, publishing, evaluating."""
    root, config = tmp_path / "killed", dataclasses.replace(TINY, threats=("clean",))
    for attempt in range(40):
        again(root, config, kill=delays(100 * seed + attempt, 0.2 * (attempt + 1)))
        if sl.safety.Study.open(root).results["status"].eq("complete").all():
            break
    else:
        pytest.fail("it never came to its end")
    assert attempt > 1
    found, whole = sl.safety.Study.open(root), begun[0]
    assert found.verify() == []
    expected = weights_of(whole.path)
    assert all(expected[name] == value for name, value in weights_of(root).items())
    for name in ("results", "steps", "outcomes"):
        key = "cell" if name == "steps" else "evaluation"
        mine, all_of = comparable(found, name), comparable(whole, name)
        kept = all_of[all_of[key].isin(mine[key])].reset_index(drop=True)
        pd.testing.assert_frame_equal(mine, kept)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policy": "digit"}, r"there is no policy 'digit'; nearest: digits"),
        ({"tasks": ("sentimet",)}, r"there is no task 'sentimet'; nearest: sentiment"),
        ({"threats": ("poison:shares=0.1",)}, r"the threat 'poison' has no setting 'shares'; nearest: share"),
        ({"regimes": ("grasswalks:rank=8",)}, r"grasswalks"),
        ({"regimes": ("grasswalk",)}, r"needs a rank"),
        ({"regimes": ("adamw:rank=8",)}, r"rank"),
        ({"regimes": ("adamw:lr=fast",)}, r"lr must be positive numbers"),
        ({"regimes": ("lora:ranks=8",)}, r"nearest: rank"),
        ({"defenses": ("counted+counted",)}, r"has counted twice"),
        ({"judges": ("exakt",)}, r"there is no judge 'exakt'; nearest: exact"),
        ({"plugins": ("no/such/file.py",)}, r"the plug-in 'no/such/file.py' cannot be imported"),
        ({"rows": 10**9}, r"the task 'sentiment' has \d+ rows"),
        ({"policy": "codenames"}, r"has no model of its own; give base=, smollm2"),
        ({"base": "no/such/model"}, r"'no/such/model' does not exist"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, change, message):
    with pytest.raises(ValueError, match=message) as error:
        sl.safety.run(tmp_path / "out", dataclasses.replace(TINY, **change))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_directory_with_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"is not empty and holds no safety study; choose another directory$"):
        sl.safety.run(tmp_path, TINY)
    with pytest.raises(RunError, match=r"holds no safety study; give the directory of one$"):
        sl.safety.Study.open(tmp_path)


def test_a_job_that_fails_is_a_status_and_is_begun_again_only_on_demand(tmp_path, again):
    config = dataclasses.replace(TINY, threats=("clean",), defenses=("broken+halved",))
    ran = again(tmp_path / "out", config)
    assert kinds(ran) == ["aligned", "base", "evaluated", "evaluated", "tuned"]
    results = sl.safety.Study.open(tmp_path / "out").results
    lost = results[results["status"] != "complete"]
    assert set(lost["stage"]) == {"repaired"}
    assert lost["status"].eq("pending").all()
    assert lost["reason"].str.contains(r"^tuned_.* failed: ValueError: it broke$").all()
    assert lost["asr"].isna().all()
    assert again(tmp_path / "out", config) == []
    assert kinds(again(tmp_path / "out", config, retry=True)) == ["tuned"]


def test_interrupted_it_has_its_tables_and_goes_on(tmp_path, again, monkeypatch):
    """Ctrl-C after three jobs."""

    class Interrupted(Forked):
        def run(self, trials, watch):
            for one in trials:
                super().run([one], watch)
                if len(self.ran) == 3:
                    raise KeyboardInterrupt

    executor, config = Interrupted(), dataclasses.replace(TINY, threats=("clean",), defenses=("none", "counted"))
    monkeypatch.setattr(studies, "executor_of", lambda *_, **__: executor)
    with pytest.raises(StudyInterrupted, match=r"the same command goes on with"):
        sl.safety.run(tmp_path / "out", config)
    before = sl.safety.Study.open(tmp_path / "out")
    assert before.results["status"].value_counts().to_dict() == {"complete": 2, "pending": 6}
    assert (before.path / "summary.parquet").is_file()
    assert len(again(tmp_path / "out", config)) == 8 - 3
    assert sl.safety.Study.open(tmp_path / "out").results["status"].eq("complete").all()


def test_precision_that_is_measured_here_is_refused_where_slurm_trains(tmp_path):
    with pytest.raises(ValueError, match=r"give float32 or bfloat16$"):
        sl.safety.run(tmp_path / "out", dataclasses.replace(TINY, precision="auto"), executor="slurm")
