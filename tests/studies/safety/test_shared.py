"""A safety study whose plain trainings are shared by two processes: the models are those of one process."""

import dataclasses
import json
import time
from dataclasses import asdict

import numpy as np
import pytest

import subspace_lab as sl
from subspace_lab.experiments.executors.base import Ended, Request
from subspace_lab.experiments.recipe import STATE, is_shared
from subspace_lab.experiments.run_trial import run_trial
from subspace_lab.runs import Run
from subspace_lab.studies.safety import study as studies
from subspace_lab.studies.safety.places import weights_dir
from subspace_lab.studies.safety.weights import tensors
from subspace_lab.training.sharding import SHARDING
from tests.launch import PATIENCE_S, fork
from tests.studies.safety.studies import TINY, Forked, kinds

CONFIG = dataclasses.replace(
    TINY, threats=("clean",), defenses=("none", "counted"), regimes=("adamw:lr=1e-2", "lora:rank=2:lr=1e-2"),
    probe_every=None,
)  # fmt: skip


def run_one(request):
    """In each of two processes."""
    run_trial(Request(**json.loads(request)))


class Shared(Forked):
    """Two processes for each trial that they can share, otherwise one; it notes which these are."""

    def __init__(self, sharding):
        super().__init__()
        self.shared, self._variables = [], {SHARDING: sharding}

    def run(self, trials, watch):
        for request in trials:
            if not is_shared(request.recipe, request.config):
                super().run([request], watch)
                continue
            self.shared.append(request.name)
            watch.begun(request.name)
            text = json.dumps(asdict(dataclasses.replace(request, resume=False)))
            statuses, log = fork(f"{__name__}:run_one", 2, (text,), self._variables, time.monotonic() + PATIENCE_S)
            assert statuses == [0, 0], log[-3000:]
            watch.ended(request.name, Ended("finished"))


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_two_processes_train_the_models_of_one(tmp_path, monkeypatch, sharding):
    pytest.importorskip("peft")
    monkeypatch.setattr(studies, "save_all", lambda *_: [])
    monkeypatch.setattr(studies, "write_report", lambda root, *_, **__: root / "report.html")
    made = {}
    for name, executor in (("one", Forked()), ("two", both := Shared(sharding))):
        monkeypatch.setattr(studies, "executor_of", lambda *_, executor=executor, **__: executor)
        made[name] = sl.safety.run(tmp_path / name, CONFIG)
        assert (made[name].results["status"] == "complete").all()
    assert kinds(both.shared) == ["aligned", "base", "tuned", "tuned"]
    for cell in both.shared:
        one, two = (study.path / "cells" / cell for study in made.values())
        manifest = Run.open(two).manifest
        assert (manifest["config"]["sharding"], manifest["environment"]["processes"]) == (sharding, 2)
        np.testing.assert_allclose(Run.open(two).metrics["loss"], Run.open(one).metrics["loss"], rtol=1e-4)
        expected, found = (tensors(weights_dir(path)) for path in (one, two))
        assert found.keys() == expected.keys()
        for name, tensor in found.items():  # entries whose gradient is near Adam's epsilon go their own way
            assert (tensor - expected[name]).norm() <= 1e-3 * expected[name].norm(), (cell, name)
        measured = [json.loads((path / STATE).read_text()) for path in (one, two)]
        assert [each["passes"] for each in measured] == [measured[0]["passes"]] * 2
        assert measured[0]["state_bytes"] == measured[1]["state_bytes"] > 0
        assert not [*two.glob("checkpoints/*")]
