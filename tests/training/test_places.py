"""A run finds its data, model, tokenizer and plan again: from elsewhere, moved, or where it is told."""

from __future__ import annotations

import glob
import json
import shutil
from pathlib import Path

import pytest

import subspace_lab as sl
from subspace_lab.training import RestoredCheckpoints, train
from subspace_lab.training.places import places_of, task_of_run
from subspace_lab.training.start import stored_config
from subspace_lab.training.workers import ALONE
from tests.training.tiny import tiny_config, write_text


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A directory with two files of text, in which the run is begun."""
    home = tmp_path / "my [home]"  # brackets are no pattern here
    (home / "text").mkdir(parents=True)
    write_text(home / "text" / "a.txt", seed=1)
    write_text(home / "text" / "b.txt", seed=2)
    monkeypatch.chdir(home)
    return home


def found(run_dir, **places):
    run = sl.Run.open(run_dir)
    return task_of_run(run, stored_config(run_dir), ALONE, **places)[0]


@pytest.mark.parametrize("data", ["text/a.txt", "text/*.txt", "./text/../text/?.txt", "**/b.txt"])
def test_a_run_on_a_relative_path_is_measured_from_elsewhere(home, tmp_path, monkeypatch, data):
    train("runs/a", tiny_config(data, steps=4, every=None))
    assert stored_config("runs/a").data == data  # as it was typed
    monkeypatch.chdir("/")
    assert Path(found(home / "runs/a").data).is_absolute()
    assert RestoredCheckpoints.of(sl.Run.open(home / "runs/a")).task.facts()["hash"]


def test_a_directory_that_is_moved_with_its_data(home, tmp_path, monkeypatch):
    train("runs/a", tiny_config("text/*.txt", steps=4, every=None))
    monkeypatch.chdir("/")
    moved = Path(shutil.move(home, tmp_path / "elsewhere"))
    assert found(moved / "runs/a").data == str(moved / "text" / "*.txt")


def test_what_has_the_name_but_not_the_content_is_passed_over(home, tmp_path, monkeypatch):
    """Data were changed where they were; a copy of the old ones lies beside the copy of the run."""
    train("runs/a", tiny_config("text/a.txt", steps=4, every=None))
    copy = Path(shutil.copytree(home, tmp_path / "copy"))
    write_text(home / "text" / "a.txt", seed=3)
    assert found(copy / "runs/a").data == str(copy / "text" / "a.txt")
    with pytest.raises(sl.RunError, match=r"was trained on other data \(hash \w{12}, now \w{12}\); restore data='text"):
        found(home / "runs/a")
    assert found(home / "runs/a", data=str(copy / "text" / "a.txt")).data == str(copy / "text" / "a.txt")
    with pytest.raises(sl.RunError, match="was trained on other data"):
        found(home / "runs/a", data=str(copy / "text" / "b.txt"))


def test_data_that_are_gone_are_asked_for(home, tmp_path, monkeypatch):
    train("runs/a", tiny_config("text/a.txt", steps=4, every=None))
    shutil.move("text", tmp_path / "away")
    with pytest.raises(sl.RunError, match=r"data='text/a.txt', which is not there any more .*with --data"):
        RestoredCheckpoints.of(sl.Run.open("runs/a"))
    run = sl.Run.open("runs/a")
    table = sl.analysis.noise_of_run(run, RestoredCheckpoints.of(run, data=str(tmp_path / "away" / "a.txt")))["noise"]
    assert len(table)
    with pytest.raises(ValueError, match=r"no_such_file.txt' does not exist"):
        found("runs/a", data="no_such_file.txt")
    with pytest.raises(ValueError, match="model='x' has no effect: runs/a was trained without one"):
        RestoredCheckpoints.of(sl.Run.open("runs/a"), model="x")


def test_a_run_without_places_is_looked_for_as_it_was_typed(home, monkeypatch):
    train("runs/a", tiny_config("text/a.txt", steps=4, every=None))
    manifest = json.loads(Path("runs/a/manifest.json").read_text())
    for broken in (None, 3, {"data": 3}, {"data": {"path": 1}}, {}):
        Path("runs/a/manifest.json").write_text(json.dumps({**manifest, "places": broken}))
        assert found("runs/a").data == "text/a.txt"


def test_a_pretrained_model_and_its_tokenizer_are_found_again(home, tmp_path, monkeypatch):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "the": 1, "of": 2, "a": 3}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save("words.json")
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=8)).save_pretrained("pretrained")
    config = tiny_config(
        "text/a.txt", preset=None, model="pretrained", tokenizer="words.json", steps=4, every=None, sequence_length=4
    )
    write_text(home / "text" / "a.txt", num_words=400)
    train("runs/a", config)
    assert places_of(config, Path("runs/a"))["model"] == {
        "path": str(home / "pretrained"),
        "from_run": "../../pretrained",
    }
    monkeypatch.chdir(tmp_path)
    run = sl.Run.open(home / "runs/a")
    assert len(list(RestoredCheckpoints.of(run).models())) == 1
    shutil.move(home / "pretrained", tmp_path / "model")
    with pytest.raises(sl.RunError, match=r"model='pretrained', which is not there any more .*with --model"):
        RestoredCheckpoints.of(run)
    assert RestoredCheckpoints.of(run, model="model").config.model == "model"


def test_a_run_is_resumed_from_elsewhere_and_with_its_data_elsewhere(home, tmp_path, monkeypatch):
    from tests.training.test_resume import content, interrupted

    config = tiny_config("text/a.txt")
    whole = train(home / "whole", config)
    for name in ("moved", "told"):
        interrupted(home / name, config, 5, monkeypatch)
    monkeypatch.chdir("/")
    train(home / "moved", resume=True)
    assert content(home / "moved") == content(whole)
    shutil.move(home / "text", tmp_path / "away")
    with pytest.raises(sl.RunError, match=r"data='text/a.txt', which is not there any more"):
        train(home / "told", resume=True)
    with pytest.raises(sl.RunError, match="began with other data"):
        train(home / "told", tiny_config(tmp_path / "away" / "b.txt"), resume=True)
    train(home / "told", tiny_config(tmp_path / "away" / "a.txt"), resume=True)
    assert content(home / "told") == content(whole)
    assert stored_config(home / "told").data == "text/a.txt"


def test_a_plan_at_a_relative_path_is_found_by_who_resumes_from_elsewhere(home, monkeypatch):
    from tests.training.test_resume import content, interrupted

    layers = [{"layer": "model.layers.0.self_attn.q_proj.weight", "rank": 2}]
    Path("plan.json").write_text(json.dumps({"layers": layers}))
    config = tiny_config("text/a.txt", optimizer="subspaceadam", optimizer_options={"plan": "plan.json"})
    whole = train(home / "whole", config)
    interrupted(home / "run", config, 5, monkeypatch)
    monkeypatch.chdir("/")
    train(home / "run", resume=True)
    assert content(home / "run") == content(whole)


def test_of_a_pattern_the_directory_is_no_pattern(home):
    kept = places_of(tiny_config("text/*.txt"), Path("runs/a"))["data"]
    assert kept == {"path": f"{glob.escape(str(home))}/text/*.txt", "from_run": "../../text/*.txt"}


def test_names_that_are_no_paths_are_not_kept(tmp_path):
    config = tiny_config("stdlib", model="hf:somebody/model", preset=None, tokenizer="hf:somebody/model")
    assert places_of(config, tmp_path) == {}
