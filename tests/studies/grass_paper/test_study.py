"""The smoke profile from beginning to end, and what comes of it when it is cut, copied or asked for something else."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil

import pandas as pd
import pytest

from subspace_lab.experiments import study as engine
from subspace_lab.experiments.outcome import Outcome, write_outcome
from subspace_lab.experiments.study import StudyInterrupted
from subspace_lab.runs import RunError
from subspace_lab.studies.grass_paper import profiles, regenerate, study
from subspace_lab.studies.grass_paper.quantities import QUANTITIES

BEST = "lr0.01_lr_rest0.01_beta20.999_warmup0"  # the only setting that is tried


def read(path, name):
    folder = path if name in {"results", "curves"} else path / "tables"
    return pd.read_parquet(folder / f"{name}.parquet")


def label(cell):
    """What people call a trial: its directory without the hash."""
    return cell.rpartition("-")[0]


def pictures(path):
    return {file.name: file.read_bytes() for file in path.iterdir() if file.suffix in {".png", ".pdf"}}


@pytest.fixture
def no_training(monkeypatch):
    def refuse(_dir, trials, *_, **__):
        raise AssertionError(f"{len(trials)} trials were run")

    monkeypatch.setattr(engine, "run_missing", refuse)


@pytest.fixture
def trained(monkeypatch):
    """The labels of the trials that are run, as they come."""
    labels, run = [], engine.run_missing

    def note(directory, todo, *arguments, **keywords):
        labels.extend(trial.label for trial in todo)
        run(directory, todo, *arguments, **keywords)

    monkeypatch.setattr(engine, "run_missing", note)
    return labels


def test_everything_is_there(whole):
    made = [name for name in QUANTITIES if name != "larger"]  # the profile has one size
    files = {file for name in made for file in QUANTITIES[name].pictures}
    assert set(pictures(whole)) == {f"{name}.{suffix}" for name in files for suffix in ("png", "pdf")}
    assert all(len(read(whole, name)) for name in made)
    assert (whole / "tables" / "tables.csv").is_file()
    assert (whole / "tables" / "tables.tex").is_file()
    page = (whole / "evidence.md").read_text(encoding="utf-8")
    for claim in ("W1", "W2", "W3", "W4", "W5", "W6"):
        assert f"\n## {claim}\n" in page
    assert all(f"({name}.png)" in page.replace("(./", "(") for name in files)


def test_every_trial_has_one_row_and_none_is_trained_twice(whole, small):
    rows = read(whole, "results")
    assert rows["cell"].is_unique
    assert rows["trial"].is_unique
    assert set(rows["status"]) == {"complete"}
    assert (rows["attempts"] == 1).all()
    assert (rows[~rows["captured"]].groupby("method")["seed"].nunique() == small.seeds + 1).all()
    assert (rows["state_bytes"] == rows["state_bytes_formula"]).all()
    assert set(rows.loc[rows["phase"] == "tune", "seed"]) == {1000}
    assert set(rows.loc[rows["phase"] == "evaluate", "seed"]) == set(range(small.seeds))


def test_all_methods_of_a_seed_begin_alike(whole):
    """The same weights and the same batch: the first loss and the first evaluation agree to the last digit."""
    first = read(whole, "curves").query("step == 0")
    for column in ("loss", "eval_loss"):
        by_seed = first.groupby("seed")[column].nunique()
        assert (by_seed == 1).all()
        assert first[column].nunique() == by_seed.size


def test_the_same_pictures_without_any_computation(whole, clone, no_training, monkeypatch):
    def refuse(_):
        raise AssertionError("it is measured again")

    for name, quantity in QUANTITIES.items():
        if (clone / "tables" / f"{name}.parquet").exists():
            monkeypatch.setitem(QUANTITIES, name, dataclasses.replace(quantity, measure=refuse))
    monkeypatch.setattr(study, "load_tokens", refuse)

    def tables():
        return {file: file.read_bytes() for file in (*(clone / "tables").iterdir(), *clone.glob("*.parquet"))}

    before = tables()
    regenerate(clone, profile="smoke")
    assert pictures(clone) == pictures(whole)
    assert tables() == before
    assert (clone / "evidence.md").read_bytes() == (whole / "evidence.md").read_bytes()


def test_pictures_and_page_go_where_they_are_asked_for(whole, clone, tmp_path, no_training):
    page = regenerate(clone, profile="smoke", page=tmp_path / "docs" / "page.md", pictures=tmp_path / "pictures")
    assert pictures(tmp_path / "pictures") == pictures(whole)
    assert not pictures(clone)
    text = page.read_text(encoding="utf-8")
    assert "](../pictures/fig1.png)" in text
    assert "`../figures/tables/fig1.parquet`" in text


def test_a_clone_trains_what_its_tables_lack_and_nothing_else(whole, clone, trained):
    rows = read(clone, "results")
    gone = [f"walk+AO_{BEST}_seed1", f"captured-adamw_{BEST}_seed0"]
    kept = ~rows["cell"].map(label).isin(gone)
    assert (~kept).sum() == 2
    rows[kept].to_parquet(clone / "results.parquet", index=False)
    regenerate(clone, profile="smoke", only=["fig3", "fig1"], workers=2)
    assert trained == gone
    for name in ("fig3", "fig1"):
        keys = [column for column in read(whole, name) if column in {"rule", "moments", "recovery", "seed", "step",
                                                                     "kind", "depth", "rank", "index"}]  # fmt: skip
        one, two = (read(path, name).sort_values(keys, ignore_index=True) for path in (whole, clone))
        pd.testing.assert_frame_equal(one, two)


def test_ctrl_c_leaves_figures_of_what_is_there(small, tmp_path, trained, monkeypatch):
    path, train = tmp_path / "figures", engine.run_missing

    def pressed(directory, todo, *arguments, **keywords):
        if trained:
            train(directory, todo[:2], *arguments, **keywords)
            raise KeyboardInterrupt
        train(directory, todo, *arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "run_missing", pressed)
        with pytest.raises(StudyInterrupted, match="the same command goes on"):
            regenerate(path, profile="smoke", only=["refresh"], workers=2)
    half = read(path, "refresh")
    assert dict(half.groupby("seed").size()) == {0: 1}  # AdamW has nothing to refresh
    assert {"refresh.png", "refresh.pdf"} == set(pictures(path))
    done = len(trained)
    regenerate(path, profile="smoke", only=["refresh"], workers=2)
    assert len(trained) == done + 12
    assert (read(path, "refresh").groupby("seed").size() == 4).all()


def test_trainings_that_fail_are_named_at_the_end(clone, small, monkeypatch, capsys):
    rows = read(clone, "results")
    lost = rows["cell"].map(label) == f"walk+AO_{BEST}_seed1"
    rows.assign(status=rows["status"].mask(lost, "failed")).to_parquet(clone / "results.parquet", index=False)

    def fail(directory, todo, *_, names, **__):
        for trial in todo:
            write_outcome(directory, names[trial.hash], Outcome("failed", "no luck", 2))

    monkeypatch.setattr(engine, "run_missing", fail)
    regenerate(clone, profile="smoke", only=["fig3"])
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"trials that are not complete: 1 (walk+AO_{BEST}_seed1 failed: no luck); the same command continues them"
    )
    assert f"walk+AO_{BEST}_seed1" in (clone / "evidence.md").read_text(encoding="utf-8").split("without a result")[1]
    monkeypatch.setattr(engine, "run_missing", None)
    rows.to_parquet(clone / "results.parquet", index=False)
    shutil.rmtree(clone / "work")
    regenerate(clone, profile="smoke", only=["fig3"])
    assert "not complete" not in capsys.readouterr().err


def test_recompute_trains_again_what_a_figure_rests_on(clone, trained):
    names = [
        f"adamw_{BEST}_seed0",
        f"adamw_{BEST}_seed1",
        f"adamw_{BEST}_seed1000",
        f"captured-adamw_{BEST}_seed0",
        f"captured-adamw_{BEST}_seed1",
    ]

    def others():
        rows = read(clone, "results")
        return rows[~rows["cell"].map(label).isin(names)].reset_index(drop=True)

    before = others()
    regenerate(clone, profile="smoke", only=["fig1"], recompute=True, workers=2)
    assert sorted(trained) == names
    pd.testing.assert_frame_equal(others(), before)


def test_draw_only_trains_and_makes_nothing_and_writes_the_page_of_what_is_there(whole, clone, no_training):
    """Of one method the evaluation is gone, and two tables."""
    rows = read(clone, "results")
    gone = (rows["method"] == "galore") & (rows["phase"] == "evaluate")
    rows[~gone].to_parquet(clone / "results.parquet", index=False)
    for name in ("fig3", "sensitivity"):
        (clone / "tables" / f"{name}.parquet").unlink()
    before = (clone / "results.parquet").read_bytes()
    page = regenerate(clone, profile="smoke", draw_only=True).read_text(encoding="utf-8")
    assert (clone / "results.parquet").read_bytes() == before
    assert {"fig3.png", "sensitivity.png"} == {*pictures(whole)} - {*pictures(clone)} - {"fig3.pdf", "sensitivity.pdf"}
    assert pictures(clone)["tables.png"] == pictures(whole)["tables.png"]
    assert "Not measured yet: fig3." in page


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"profile": "smok"}, "there is no profile 'smok'; nearest: smoke"),
        ({"profile": "smoke", "only": ["fig33"]}, "there is no figure 'fig33'; nearest: fig3 "),
        ({"profile": "smoke", "only": []}, "only names no figure"),
        ({"profile": "smoke", "only": ["fig1", "fig1"]}, "only has fig1 twice"),
        ({"profile": "smoke", "workers": 0}, "workers must be a whole number of at least 1, got 0"),
        ({"profile": "smoke", "workers": True}, "workers must be a whole number of at least 1, got True"),
        ({"profile": "smoke", "executor": "slrum"}, "there is no executor 'slrum'; nearest: slurm "),
        ({"profile": "smoke", "slurm": {"time": 5}}, "options of Slurm have no effect on executor='local'"),
        ({"profile": "smoke", "draw_only": True, "recompute": True}, "recompute has no effect on draw_only"),
        ({"profile": "smoke", "draw_only": True, "workers": 2}, "workers has no effect on draw_only"),
        ({"profile": "smoke", "draw_only": True, "executor": "slurm"}, "executor has no effect on draw_only"),
        ({"profile": "paper", "longer": True}, "longer has no use with profile paper"),
        ({"profile": "paper", "workers": 2}, "workers=2 has no use here: 8 processes share a training"),
    ],
    ids=str,
)
def test_arguments_that_make_no_sense(arguments, match, tmp_path, small):
    with pytest.raises(ValueError, match=match):
        regenerate(tmp_path / "figures", **arguments)
    assert not (tmp_path / "figures").exists()


def test_a_directory_of_another_profile(clone):
    with pytest.raises(RunError, match=r"figures of another profile \(name smoke -> cpu; .*lrs .* -> .*; choose"):
        regenerate(clone, profile="cpu")
    with pytest.raises(RunError, match=r"name smoke -> smoke-longer; steps 4 -> 16; seeds 2 -> 4"):
        regenerate(clone, profile="smoke", longer=True)


def test_other_data_are_not_mixed_in(clone, no_training, monkeypatch):
    monkeypatch.setattr(study, "load_tokens", lambda _: type("Tokens", (), {"hash": "0" * 64}))
    regenerate(clone, profile="smoke", only=["refresh"])  # nothing is trained
    with pytest.raises(RunError, match=r"rests on other data \(hash [0-9a-f]{12}, here 000000000000; .*go on where"):
        regenerate(clone, profile="smoke", only=["fig1"], recompute=True)


def test_a_directory_of_something_else(tmp_path, small):
    (tmp_path / "letter.txt").write_text("dear all")
    with pytest.raises(RunError, match="not empty and holds no regenerated figures"):
        regenerate(tmp_path, profile="smoke")
    with pytest.raises(RunError, match="is a file"):
        regenerate(tmp_path / "letter.txt", profile="smoke")
    for nothing in (tmp_path, tmp_path / "new"):
        with pytest.raises(RunError, match="holds no regenerated figures; give the directory of one"):
            regenerate(nothing, profile="smoke", draw_only=True)
    assert [file.name for file in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("content", ["", "{}", '{"format": "subspace_lab.evidence", "profile": {}}', "[" * 100_000])
def test_a_broken_manifest_is_one_line(tmp_path, small, content):
    (tmp_path / "evidence.json").write_text(content)
    with pytest.raises(RunError, match=r"evidence\.json .*(restore it|choose another)") as caught:
        regenerate(tmp_path, profile="smoke")
    assert "\n" not in str(caught.value)


def test_a_broken_table_is_one_line(clone):
    (clone / "results.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(RunError, match=r"results\.parquet cannot be read .*remove it"):
        regenerate(clone, profile="smoke")


def test_a_full_disk_is_one_line(clone, no_training, monkeypatch):
    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunError, match=r"cannot write .*: No space left on device; free some space"):
        regenerate(clone, profile="smoke")


def test_the_longer_variant(small):
    longer = small.longer
    assert (longer.config.steps, longer.seeds) == (4 * small.config.steps, small.seeds + 2)
    same = dataclasses.replace(longer, name=small.name, config=small.config, seeds=small.seeds, cell_s=small.cell_s)
    assert same == small


def test_profiles_say_what_they_are():
    assert {name: profile.name for name, profile in profiles.PROFILES.items()} == {n: n for n in profiles.PROFILES}
