"""The path of the paper profile at toy size: two processes share a training, begun by torchrun, here or in a job."""

from __future__ import annotations

import dataclasses
import functools
import sys
import threading

import pandas as pd
import psutil
import pytest

from subspace_lab.experiments.executors import slurm, torchrun
from subspace_lab.experiments.executors.base import Ended, Request
from subspace_lab.experiments.executors.local import LocalExecutor
from subspace_lab.experiments.executors.slurm import SlurmExecutor
from subspace_lab.experiments.outcome import read_outcome
from subspace_lab.experiments.progress import TrialsProgress, last_line
from subspace_lab.experiments.study import StudyInterrupted
from subspace_lab.runs import Run
from subspace_lab.studies.grass_paper import profiles, regenerate
from subspace_lab.studies.grass_paper.quantities import QUANTITIES
from subspace_lab.studies.grass_paper.trials import trainings
from subspace_lab.training import TrainConfig, train
from subspace_lab.training.tokens import load_tokens


@pytest.mark.slow
def test_two_processes_train_what_one_does(small, tmp_path, monkeypatch):
    """Ctrl-C cuts them on this machine; the same call, said to be for Slurm, goes on with them in a job."""
    pytest.importorskip("submitit")
    config = dataclasses.replace(small.config, steps=30)
    scale = dataclasses.replace(small, config=config, seeds=1, processes=2, methods=("adamw",))
    monkeypatch.setitem(profiles.PROFILES, "smoke", scale)
    alone = dataclasses.replace(QUANTITIES["tables"], variants=lambda _: {"adamw": {"optimizer": "adamw"}})
    monkeypatch.setitem(QUANTITIES, "tables", alone)
    monkeypatch.setattr(slurm, "SlurmExecutor", functools.partial(SlurmExecutor, cluster="local"))
    monkeypatch.setattr(slurm, "_PATIENCE_S", 0.05)
    monkeypatch.setattr(torchrun, "_PATIENCE_S", 0.05)
    path = tmp_path / "figures"
    make = trainings(scale, load_tokens(scale.base).hash).plain
    trial = make("adamw", {"lr": 0.01, "lr_rest": 0.01, "beta2": 0.999, "warmup": 3}, 1000, "tune")
    record = functools.partial(read_outcome, path / "work" / "cells", trial.name)

    def press(_):
        if last_line(path / "work" / "cells" / trial.name / "metrics.jsonl").get("step", 0) >= 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TrialsProgress, "look", press)
        with pytest.raises(StudyInterrupted):
            regenerate(path, profile="smoke", only=["tables"])
    assert (record().status, record().attempts) == ("cut", 1)
    page = regenerate(path, profile="smoke", only=["tables"], executor="slurm", slurm={"time": 5})
    assert (page.is_file(), (path / "tables.png").is_file(), record().attempts) == (True, True, 2)
    assert len([*(path / "work" / "slurm").glob("*/*_result.pkl")]) == 2  # and the evaluation
    row, _ = pd.read_parquet(path / "results.parquet").sort_values("phase", ascending=False).to_dict("records")
    assert (row["status"], row["state_bytes"]) == ("complete", row["state_bytes_formula"])
    one = Run.open(train(tmp_path / "alone", TrainConfig.from_dict(trial.config))).metrics
    assert row["tokens"] == one["tokens"].sum()
    assert row["eval_loss"] == pytest.approx(one["eval_loss"].iloc[-1], rel=1e-4)


class Told:
    """Who listens to an executor."""

    def __init__(self):
        self.ends = []

    def begun(self, name):
        pass

    def ended(self, name, ended):
        self.ends.append(ended)

    def look(self):
        pass


def request(path):
    return Request(str(path), "a", "train", {})


@pytest.mark.parametrize(
    ("status", "ended"),
    [(0, Ended("finished")), (3, Ended("killed", "killed, torchrun ended with status 3, see a.log"))],
)
def test_how_torchrun_ends_is_told(tmp_path, monkeypatch, status, ended):
    monkeypatch.setattr(torchrun, "command", lambda *_: ["python", "-c", f"raise SystemExit({status})"])
    told = Told()
    torchrun.TorchrunExecutor(2, None, LocalExecutor(tmp_path, [])).run([request(tmp_path)], told)
    told.ends.append(torchrun.run_in_job(request(tmp_path), processes=2))
    assert told.ends == [ended] * 2


def test_what_interrupts_a_job_interrupts_its_torchrun(tmp_path, monkeypatch):
    """The job of a trial nears its end: torchrun is told, and waited for."""
    there = tmp_path / "there"
    code = (
        f"import pathlib, time\ntry:\n    pathlib.Path({str(there)!r}).touch()\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    raise SystemExit(7)"
    )
    monkeypatch.setattr(torchrun, "command", lambda *_: [sys.executable, "-c", code])
    wait = torchrun.subprocess.Popen.wait

    def interrupted(process, *arguments):
        monkeypatch.setattr(torchrun.subprocess.Popen, "wait", wait)
        while not there.exists() and process.poll() is None:
            threading.Event().wait(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(torchrun.subprocess.Popen, "wait", interrupted)
    told = torchrun.run_in_job(request(tmp_path), processes=2)
    assert told == Ended("killed", "killed, torchrun ended with status 7, see a.log")
    assert not [process for process in psutil.Process().children() if code in process.cmdline()]
