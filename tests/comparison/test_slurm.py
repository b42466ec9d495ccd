"""The path of the job array, on submitit's stand-in for a cluster: processes of this machine."""

import psutil
import pytest

from subspace_lab.comparison import compare, sweep
from subspace_lab.comparison.progress import SweepProgress, last_line
from subspace_lab.comparison.slurm import SlurmExecutor


def test_without_slurm_it_says_so(settings, tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"there is no Slurm here .*; leave out --executor slurm to use this machine"):
        compare(tmp_path / "sweep", ["grasswalk"], lrs=[1e-3], config=settings(), executor="slurm")
    assert not (tmp_path / "sweep").exists()


def test_the_precision_is_not_measured_on_another_machine(settings, tmp_path):
    with pytest.raises(ValueError, match="precision auto is measured here, the cells run elsewhere"):
        compare(tmp_path / "sweep", ["grasswalk"], lrs=[1e-3], config=settings(precision="auto"), executor="slurm")


def test_without_submitit_it_says_how_to_install_it(settings, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "submitit", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'subspace_lab\[slurm\]'"):
        compare(tmp_path / "sweep", ["grasswalk"], lrs=[1e-3], config=settings(), executor="slurm")


@pytest.mark.slow
def test_jobs_give_what_processes_give(whole, settings, tmp_path, monkeypatch):
    """One job is killed; the same call goes on with it."""
    pytest.importorskip("submitit")
    path = tmp_path / "sweep"
    monkeypatch.setattr(sweep, "SlurmExecutor", lambda *given: SlurmExecutor(*given, cluster="local"))
    monkeypatch.setattr("subspace_lab.comparison.slurm._PATIENCE_S", 0.05)
    killed, started = [], []
    enter = SlurmExecutor.__enter__

    def look(_):
        for name, job in started[-1]._jobs.items():
            if not killed and last_line(path / "cells" / name / "metrics.jsonl").get("step", 0) >= 5:
                killed.append(name)
                for process in psutil.Process(job._process.pid).children(recursive=True):
                    process.kill()

    monkeypatch.setattr(SlurmExecutor, "__enter__", lambda self: started.append(self) or enter(self))
    monkeypatch.setattr(SweepProgress, "look", look)
    arguments = {"lrs": [1e-3], "seeds": 1, "config": settings(steps=40), "executor": "slurm", "slurm": {"time": 5}}
    first = compare(path, ["grasswalk"], **arguments).results
    assert killed == ["grasswalk_lr0.001_seed0"]
    assert first["status"].tolist() == ["killed"]
    assert first["reason"][0].startswith("job ")
    again = compare(path, ["grasswalk"], **arguments)
    assert again.results[["status", "attempts"]].to_numpy().tolist() == [["complete", 2]]
    assert again.curves["loss"].tolist() == whole.curves["loss"].tolist()
    assert again.results["eval_loss"].tolist() == whole.results["eval_loss"].tolist()
