"""The path of the job array, on submitit's stand-in for a cluster: processes of this machine."""

import functools
import os
import signal

import psutil
import pytest

from subspace_lab.experiments.executors import slurm
from subspace_lab.experiments.executors.slurm import SlurmExecutor
from subspace_lab.experiments.progress import TrialsProgress, last_line
from subspace_lab.runs import RunError
from subspace_lab.studies.optimizers import compare
from subspace_lab.training.interrupt import catch_interrupt
from tests.studies.optimizers.conftest import directory


def test_without_slurm_it_says_so(settings, tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"there is no Slurm here .*; leave out --executor slurm to use this machine"):
        compare(tmp_path / "sweep", ["grasswalk"], lrs=[1e-3], config=settings(), executor="slurm")
    assert not (tmp_path / "sweep").exists()


def test_the_precision_is_not_measured_on_another_machine(settings, tmp_path):
    with pytest.raises(ValueError, match="precision auto is measured here, the trials run elsewhere"):
        compare(tmp_path / "sweep", ["grasswalk"], lrs=[1e-3], config=settings(precision="auto"), executor="slurm")


def test_without_submitit_it_says_how_to_install_it(settings, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "submitit", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'subspace_lab\[slurm\]'"):
        compare(tmp_path / "sweep", ["grasswalk"], lrs=[1e-3], config=settings(), executor="slurm")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"partitoin": "gpu"}, "there is no option of Slurm 'partitoin'; nearest: partition "),
        ({"ntasks_per_node": 2}, "the option ntasks_per_node of Slurm is fixed: a job is one task on one node"),
        ({"array_parallelism": 2}, "array_parallelism of Slurm is fixed: .*workers says how many jobs at a time"),
    ],
    ids=str,
)
def test_options_that_make_no_sense(settings, tmp_path, options, line):
    pytest.importorskip("submitit")
    with pytest.raises(ValueError, match=line):
        compare(tmp_path / "s", ["grasswalk"], lrs=[1e-3], config=settings(), executor="slurm", slurm=options)
    assert not (tmp_path / "s").exists()


def test_what_sbatch_is_asked_for_and_what_it_refuses(settings, tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    script = f'#!/bin/sh\ncp "$1" {tmp_path}/asked\necho "sbatch: error: invalid partition: gpux" >&2\nexit 1\n'
    for name in ("sbatch", "srun"):
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    arguments = {"config": settings(), "executor": "slurm", "workers": 3, "slurm": {"partition": "gpux", "time": 60}}
    with pytest.raises(
        RunError, match=r"Slurm did not take the jobs \(sbatch: error: invalid partition: gpux\); correct"
    ):
        compare(tmp_path / "sweep", ["grasswalk"], lrs=[1e-3], seeds=5, **arguments)
    asked = (tmp_path / "asked").read_text().splitlines()
    wanted = {"partition=gpux", "time=60", "job-name=subspace-lab", "array=0-4%3", "nodes=1"}
    assert {f"#SBATCH --{option}" for option in wanted} <= set(asked)


def test_the_warnings_of_slurm_are_one_ctrl_c():
    """The time limit first, the end of the job after it: a second Ctrl-C would kill at once."""

    def train(numbers):
        with catch_interrupt() as interrupt:
            for number in numbers:
                os.kill(os.getpid(), number)
            return str(interrupt.asked)

    before = {number: signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGTERM)}
    try:
        assert slurm._in_job(train, []) == "False"
        assert slurm._in_job(train, [signal.SIGUSR2, signal.SIGTERM]) == "True"
        assert slurm._in_job(train, [signal.SIGTERM, signal.SIGTERM]) == "True"
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.slow
def test_jobs_give_what_processes_give(whole, settings, tmp_path, monkeypatch):
    """One job is killed; the same call goes on with it."""
    pytest.importorskip("submitit")
    path = tmp_path / "sweep"
    monkeypatch.setattr(slurm, "SlurmExecutor", functools.partial(SlurmExecutor, cluster="local"))
    monkeypatch.setattr(slurm, "_PATIENCE_S", 0.05)
    killed, started = [], []
    enter = SlurmExecutor.__enter__

    def look(_):
        for name, job in started[-1]._jobs.items():
            if not killed and last_line(path / "cells" / name / "metrics.jsonl").get("step", 0) >= 5:
                killed.append(name)
                for process in psutil.Process(job._process.pid).children(recursive=True):
                    process.kill()

    monkeypatch.setattr(SlurmExecutor, "__enter__", lambda self: started.append(self) or enter(self))
    monkeypatch.setattr(TrialsProgress, "look", look)
    arguments = {"lrs": [1e-3], "seeds": 1, "config": settings(steps=40), "executor": "slurm", "slurm": {"time": 5}}
    first = compare(path, ["grasswalk"], **arguments).results
    assert killed == [directory(path, "grasswalk_lr0.001_seed0").name]
    assert first["status"].tolist() == ["killed"]
    assert first["reason"][0].startswith("job ")
    again = compare(path, ["grasswalk"], **arguments)
    assert again.results[["status", "attempts"]].to_numpy().tolist() == [["complete", 2]]
    assert again.curves["loss"].tolist() == whole.curves["loss"].tolist()
    assert again.results["eval_loss"].tolist() == whole.results["eval_loss"].tolist()
