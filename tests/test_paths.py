"""Paths as users write them, everywhere one is taken."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import subspace_lab as sl
from subspace_lab._paths import local_path
from subspace_lab.optim.from_plan import read_plan
from subspace_lab.studies.grass_paper import regenerate
from subspace_lab.studies.optimizers import compare
from subspace_lab.studies.optimizers.comparison import Comparison
from subspace_lab.training import TrainConfig
from subspace_lab.training.pretrained import find_model
from subspace_lab.training.sources import find_source
from subspace_lab.training.tokens import load_tokens

ADDRESSES = ["s3://bucket/run", "hf://datasets/a/b", "file:///tmp/run", "https://host/run", "gs:/bucket/run"]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home directory, and an empty working directory beside it."""
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


def test_the_short_form_of_the_home_directory_is_expanded_and_other_paths_stay(home):
    assert local_path("~/a/../b") == home / "a" / ".." / "b"
    assert local_path(Path("~")) == home
    for same in ("a/~/b", "/x/~", ".", "c:/x", "a b/s3:/x", "hf:name", "12:/x"):
        assert local_path(same) == Path(same)
    for literal in ("./~", "./~/x", "./s3:/x"):  # which is not expanded or refused when it is handed on either
        assert local_path(local_path(literal)) == Path.cwd() / literal


@pytest.mark.parametrize("path", [*ADDRESSES, Path("s3://bucket/run"), "~nobody-of-that-name/x", "", "a\0b"])
def test_what_is_no_path_of_this_machine_is_refused_in_one_line(path, home):
    with pytest.raises(ValueError, match=r"is the address of|home|user|is not a path") as error:
        local_path(path)
    assert "\n" not in str(error.value)
    with pytest.raises(TypeError, match=r"a path must be|expected str"):
        local_path(3)


TAKES = {
    "capture": lambda path: sl.GradientCapture(torch.nn.Linear(8, 8), path),
    "open": sl.Run.open,
    "train": lambda path: sl.train(path, TrainConfig(steps=1)),
    "resume": lambda path: sl.train(path, resume=True),
    "data": find_source,
    "model": find_model,
    "tokenizer": lambda path: load_tokens(TrainConfig(tokenizer=f"{path}.json").resolved()),
    "compare": lambda path: compare(path, ["adamw"], lrs=[1e-3], seeds=1),
    "comparison": Comparison.open,
    "regenerate": lambda path: regenerate(path, profile="smoke"),
    "page": lambda path: regenerate("out", profile="smoke", page=path),
    "plan": sl.Plan.load,
    "from_plan": lambda path: sl.optim.from_plan(torch.nn.Linear(8, 8), path),
    "read_plan": read_plan,
}


@pytest.mark.parametrize("take", TAKES.values(), ids=TAKES)
@pytest.mark.parametrize("address", ADDRESSES[:3])
def test_addresses_are_refused_everywhere_and_nothing_is_made(take, address, home):
    with pytest.raises((ValueError, sl.RunError), match="is the address of something elsewhere"):
        take(address)
    assert not list(Path.cwd().iterdir())


def test_the_home_directory_is_found_everywhere(home):
    with sl.GradientCapture(torch.nn.Linear(8, 8), "~/run"):
        pass
    assert sl.Run.open("~/run").path == home / "run"
    (home / "a.txt").write_text("text")
    assert list(find_source("~/a.txt").documents()) == list(find_source("~/*.txt").documents()) == ["text"]
    assert find_model("~") == find_model("hf:~") == str(home)
    plan = sl.Plan((), 1)
    plan.save("~/plan.json")
    assert sl.Plan.load("~/plan.json") == plan
    assert read_plan("~/plan.json") == json.loads((home / "plan.json").read_text())
    with pytest.raises(sl.RunError, match=str(home / "none")):
        Comparison.open("~/none")
    with pytest.raises(sl.RunError, match=str(home / "run")):
        sl.train("~/run", TrainConfig(steps=1))
    with pytest.raises(sl.RunError, match=str(home / "a.txt")):
        regenerate("~/a.txt", profile="smoke")
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize(
    "arguments", [["verify", "~/run"], ["analyze", "~/run"], ["compare", "~/run", "--methods=adamw", "--lrs=1e-3"],
                  ["figures", "--profile=smoke", "~/run"], ["demo", "~/run"], ["recommend", "~/run"],
                  ["report", "~/run"], ["figures", "out", "--profile=smoke", "--page=s3://x/y"],
                  ["train", "./run", "--data=~/none.txt"]]
)  # fmt: skip
def test_the_command_line_takes_them_as_well(arguments, home):
    """As it gets them where no shell has expanded them: in ``--flag=~/x``, in quotes, from other programs."""
    (home / "run").write_text("a file, so that nothing long begins")
    code = f"import sys; sys.argv[1:] = {arguments!r}; from subspace_lab.cli.entry import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ}, check=False)
    assert done.returncode == 2, done
    assert str(home) in done.stderr or "s3://x/y" in done.stderr or "~/none.txt" in done.stderr
    assert not list(Path.cwd().glob("~*"))


@pytest.mark.parametrize("name", ["pipe", "pipe.gguf", "words.txt"])
def test_a_model_is_a_directory_or_a_gguf_file_and_nothing_else_is_asked_of_the_hub(name, tmp_path):
    if name == "words.txt":
        (tmp_path / name).write_text("words")
    else:
        os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match=f"{name}' is neither a directory of a model or tokenizer nor a .gguf file"):
        find_model(str(tmp_path / name))
