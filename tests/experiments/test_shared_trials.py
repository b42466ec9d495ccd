"""Trials that several processes share, and those of one process beside them."""

from __future__ import annotations

import pytest

from subspace_lab.experiments.executors import torchrun
from subspace_lab.experiments.executors.base import Ended, Request
from subspace_lab.experiments.executors.choose import check_execution, executor_of
from subspace_lab.experiments.executors.local import LocalExecutor
from subspace_lab.experiments.executors.torchrun import TorchrunExecutor
from subspace_lab.experiments.outcome import read_outcome
from subspace_lab.experiments.recipe import is_shared
from subspace_lab.training.sharding import SHARDING
from tests.experiments import toy

ALONE, SHARED = f"{toy.__name__}:add", "train"


class Told:
    """Who listens to an executor."""

    def __init__(self):
        self.ends = {}

    def begun(self, name):
        self.ends[name] = None

    def ended(self, name, ended):
        self.ends[name] = ended

    def look(self):
        pass


def request(path, name, recipe):
    return Request(str(path), name, recipe, {"value": 3}, plugins=(toy.__name__,))


@pytest.fixture
def noted(monkeypatch, tmp_path):
    """In the place of torchrun, what says how it was begun; a text, once it was."""
    file = tmp_path / "noted"
    code = f"import os; open({str(file)!r}, 'a').write(os.environ.get({SHARDING!r}, 'nothing') + ' ')"
    monkeypatch.setattr(torchrun, "command", lambda *_: ["python", "-c", code])
    return lambda: file.read_text() if file.exists() else ""


def test_a_recipe_says_what_several_processes_share():
    assert is_shared("train", {})
    assert not is_shared(ALONE, {}, [toy.__name__])


@pytest.mark.parametrize("sharding", [None, "ddp", "fsdp"])
def test_what_cannot_be_shared_is_run_by_one_process(tmp_path, noted, sharding):
    executor, told = TorchrunExecutor(2, sharding, toy.Forked()), Told()
    with executor:
        executor.run([request(tmp_path, name, recipe) for name, recipe in (("a", ALONE), ("b", SHARED))], told)
    assert list(told.ends.items()) == [("b", Ended("finished")), ("a", Ended("finished"))]
    assert noted() == f"{sharding or 'nothing'} "
    assert read_outcome(tmp_path, "a").metrics == {"eval_total": 3.0}


def test_nor_in_a_job(tmp_path, noted):
    assert torchrun.run_in_job(request(tmp_path, "a", ALONE), processes=2, sharding="fsdp") is None
    assert read_outcome(tmp_path, "a").status == "complete"
    assert noted() == ""
    assert torchrun.run_in_job(request(tmp_path, "b", SHARED), processes=2, sharding="fsdp") == Ended("finished")
    assert noted() == "fsdp "


def test_the_executor_is_as_the_number_of_processes(tmp_path):
    assert isinstance(executor_of(tmp_path), LocalExecutor)
    assert isinstance(executor_of(tmp_path, processes=1), LocalExecutor)
    assert isinstance(executor_of(tmp_path, processes=2, sharding="fsdp"), TorchrunExecutor)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"sharding": "fsdp"}, r"^sharding='fsdp' has no effect on one process; give processes, or leave it out$"),
        ({"sharding": "ddp", "processes": 1}, r"^sharding='ddp' has no effect on one process"),
        ({"sharding": "zero", "processes": 2}, r"^sharding must be "),
        ({"sharding": "hsdp", "processes": 4}, r"^sharding='hsdp' shards over the processes of a node"),
        ({"processes": 0}, r"^processes must be a whole number of at least 1, got 0"),
    ],
)
def test_what_does_not_fit_is_refused(given, line):
    with pytest.raises(ValueError, match=line):
        check_execution("local", None, None, **given)
